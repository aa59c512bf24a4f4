// lua runs a script for each object of a JSON array the way Argo CD does: with the libraries base, package and table, with
// an os that has only time and date and is there only for those who require it, for one second at most, and with the object
// as the global obj.
//
// On standard input: {"script": "…", "objects": […]}. On standard output, one element for each object: {"result": …} with
// what the script returned, or {"error": "…"}.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	lua "github.com/yuin/gopher-lua"
)

type request struct {
	Script  string `json:"script"`
	Objects []any  `json:"objects"`
}

type answer struct {
	Result any    `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fmt.Fprintln(os.Stderr, "reading the request:", err)
		os.Exit(1)
	}
	answers := make([]answer, 0, len(asked.Objects))
	for _, object := range asked.Objects {
		result, err := run(asked.Script, object)
		if err != nil {
			answers = append(answers, answer{Error: err.Error()})
			continue
		}
		answers = append(answers, answer{Result: result})
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, "writing the answers:", err)
		os.Exit(1)
	}
}

func run(script string, object any) (any, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	libraries := []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage},
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
	}
	for _, library := range libraries {
		call := lua.P{Fn: state.NewFunction(library.open), Protect: true}
		if err := state.CallByParam(call, lua.LString(library.name)); err != nil {
			return nil, err
		}
	}
	state.PreloadModule(lua.OsLibName, reducedOs)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	result := state.Get(-1)
	if result.Type() != lua.LTTable {
		return nil, fmt.Errorf("the script returns a %s, not a table", result.Type())
	}
	return fromLua(result)
}

// reducedOs is the module os without all that could reach out of the script.
func reducedOs(state *lua.LState) int {
	lua.OpenOs(state)
	whole := state.Get(-1).(*lua.LTable)
	reduced := state.NewTable()
	for _, name := range []string{"time", "date"} {
		reduced.RawSetString(name, whole.RawGetString(name))
	}
	// OpenOs has made all of it known, by name and to require.
	state.SetGlobal(lua.OsLibName, lua.LNil)
	state.SetField(state.GetField(state.Get(lua.RegistryIndex), "_LOADED"), lua.OsLibName, reduced)
	state.Push(reduced)
	return 1
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case string:
		return lua.LString(value)
	case float64:
		return lua.LNumber(value)
	case bool:
		return lua.LBool(value)
	case []any:
		table := state.NewTable()
		for _, element := range value {
			table.Append(toLua(state, element))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, element := range value {
			table.RawSetString(key, toLua(state, element))
		}
		return table
	default:
		return lua.LNil
	}
}

// fromLua turns a table with a length into an array, any other into an object.
func fromLua(value lua.LValue) (any, error) {
	switch value := value.(type) {
	case lua.LString:
		return string(value), nil
	case lua.LNumber:
		return float64(value), nil
	case lua.LBool:
		return bool(value), nil
	case *lua.LTable:
		if length := value.Len(); length > 0 {
			array := make([]any, length)
			for i := range array {
				element, err := fromLua(value.RawGetInt(i + 1))
				if err != nil {
					return nil, err
				}
				array[i] = element
			}
			return array, nil
		}
		object := make(map[string]any)
		var failed error
		value.ForEach(func(key, element lua.LValue) {
			converted, err := fromLua(element)
			if err != nil {
				failed = err
			}
			object[key.String()] = converted
		})
		return object, failed
	default:
		return nil, fmt.Errorf("a %s is in the result", value.Type())
	}
}
