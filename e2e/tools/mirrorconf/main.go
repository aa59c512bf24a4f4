// Command mirrorconf says where a node would look for images, given the mirror sets of a cluster.
//
//	mirrorconf -f FILE [-f FILE ...] [PULL-SPEC ...]
//
// Each FILE holds ImageDigestMirrorSet, ImageTagMirrorSet or ImageContentSourcePolicy objects as YAML documents, JSON, or
// a List; other kinds are skipped. "-" is standard input. The merge is the one that OpenShift's Machine Config Operator
// does (runtime-utils, after its own checks), the lookup is the one that CRI-O does (sysregistriesv2). One JSON document
// goes to standard output; the exit code is 0 also when the objects cannot be merged, since that is an answer.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
	merged "github.com/containers/image/v5/pkg/sysregistriesv2"
	"github.com/distribution/reference"
	configv1 "github.com/openshift/api/config/v1"
	operatorv1alpha1 "github.com/openshift/api/operator/v1alpha1"
	"github.com/openshift/runtime-utils/pkg/registries"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// answer is what goes to standard output.
type answer struct {
	// Error says why the objects cannot be merged: no node would get an update then.
	Error string `json:"error,omitempty"`
	// RegistriesConf is the rendered file.
	RegistriesConf string `json:"registriesConf,omitempty"`
	// Pulls has one entry per pull spec, in the order asked.
	Pulls []pull `json:"pulls"`
}

type pull struct {
	Spec string `json:"spec"`
	// Lookups are the references a node tries, in this order.
	Lookups []string `json:"lookups"`
	// SourceBlocked says that the last lookup, the original place, is never contacted.
	SourceBlocked bool   `json:"sourceBlocked"`
	Error         string `json:"error,omitempty"`
}

// sets are the objects read.
type sets struct {
	digest []*configv1.ImageDigestMirrorSet
	tag    []*configv1.ImageTagMirrorSet
	policy []*operatorv1alpha1.ImageContentSourcePolicy
}

func main() {
	var files []string
	flag.Func("f", "file with mirror sets (repeatable, - is standard input)", func(name string) error {
		files = append(files, name)
		return nil
	})
	flag.Parse()
	if err := run(files, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mirrorconf:", err)
		os.Exit(1)
	}
}

func run(files, specs []string) error {
	var all sets
	for _, name := range files {
		data, err := read(name)
		if err != nil {
			return err
		}
		if err := all.addDocuments(data); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	result := answer{Pulls: []pull{}}
	if conf, err := all.render(); err != nil {
		result.Error = err.Error()
	} else {
		result.RegistriesConf = conf
		if result.Pulls, err = lookup(conf, specs); err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(result)
}

func read(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(name)
}

func (s *sets) addDocuments(data []byte) error {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		asJSON, err := yaml.YAMLToJSON(document)
		if err != nil {
			return err
		}
		if err := s.addObject(asJSON); err != nil {
			return err
		}
	}
}

func (s *sets) addObject(object []byte) error {
	var head struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if bytes.Equal(bytes.TrimSpace(object), []byte("null")) {
		return nil
	}
	if err := json.Unmarshal(object, &head); err != nil {
		return err
	}
	for _, item := range head.Items {
		if err := s.addObject(item); err != nil {
			return err
		}
	}
	switch head.Kind {
	case "ImageDigestMirrorSet":
		return appendParsed(&s.digest, object)
	case "ImageTagMirrorSet":
		return appendParsed(&s.tag, object)
	case "ImageContentSourcePolicy":
		return appendParsed(&s.policy, object)
	}
	return nil
}

func appendParsed[T any](list *[]*T, object []byte) error {
	parsed := new(T)
	if err := json.Unmarshal(object, parsed); err != nil {
		return err
	}
	*list = append(*list, parsed)
	return nil
}

// render checks and merges like the Machine Config Operator.
func (s *sets) render() (string, error) {
	if err := s.checkPolicies(); err != nil {
		return "", err
	}
	var conf merged.V2RegistriesConf
	if err := registries.EditRegistriesConfig(&conf, nil, nil, s.policy, s.digest, s.tag); err != nil {
		return "", err
	}
	var out bytes.Buffer
	err := toml.NewEncoder(&out).Encode(conf)
	return out.String(), err
}

// checkPolicies refuses what stops the operator from rendering anything: one source under two policies in whichever
// objects (unset and ImageContentSourcePolicy mean "allow"), or a source that is never contacted among its own mirrors.
func (s *sets) checkPolicies() error {
	policies := map[string]configv1.MirrorSourcePolicy{}
	check := func(object, source string, policy configv1.MirrorSourcePolicy, mirrors []configv1.ImageMirror) error {
		if policy == "" {
			policy = configv1.AllowContactingSource
		}
		if other, seen := policies[source]; seen && other != policy {
			return fmt.Errorf("%s: source %q is set to %s and, in another entry, to %s", object, source, policy, other)
		}
		policies[source] = policy
		for _, mirror := range mirrors {
			if policy == configv1.NeverContactSource && string(mirror) == source {
				return fmt.Errorf("%s: source %q must never be contacted, yet is one of its own mirrors", object, source)
			}
		}
		return nil
	}
	for _, set := range s.policy {
		for _, entry := range set.Spec.RepositoryDigestMirrors {
			if err := check("ImageContentSourcePolicy "+set.Name, entry.Source, "", nil); err != nil {
				return err
			}
		}
	}
	for _, set := range s.digest {
		for _, entry := range set.Spec.ImageDigestMirrors {
			if err := check("ImageDigestMirrorSet "+set.Name, entry.Source, entry.MirrorSourcePolicy, entry.Mirrors); err != nil {
				return err
			}
		}
	}
	for _, set := range s.tag {
		for _, entry := range set.Spec.ImageTagMirrors {
			if err := check("ImageTagMirrorSet "+set.Name, entry.Source, entry.MirrorSourcePolicy, entry.Mirrors); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookup asks the resolver of the container runtime about each pull spec.
func lookup(conf string, specs []string) ([]pull, error) {
	folder, err := os.MkdirTemp("", "mirrorconf-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "registries.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	// A drop-in folder that is empty keeps the files of the host out of the answer.
	dropIns := filepath.Join(folder, "registries.conf.d")
	if err := os.Mkdir(dropIns, 0o700); err != nil {
		return nil, err
	}
	context := &types.SystemContext{SystemRegistriesConfPath: file, SystemRegistriesConfDirPath: dropIns}
	pulls := []pull{}
	for _, spec := range specs {
		pulls = append(pulls, lookupOne(context, spec))
	}
	return pulls, nil
}

func lookupOne(context *types.SystemContext, spec string) pull {
	result := pull{Spec: spec, Lookups: []string{}}
	named, err := reference.ParseNamed(strings.TrimPrefix(spec, "docker://"))
	if err != nil {
		result.Error = err.Error()
		return result
	}
	registry, err := sysregistriesv2.FindRegistry(context, named.String())
	if err != nil {
		result.Error = err.Error()
		return result
	}
	if registry == nil {
		result.Lookups = append(result.Lookups, named.String())
		return result
	}
	result.SourceBlocked = registry.Blocked
	sources, err := registry.PullSourcesFromReference(named)
	if err != nil {
		result.Error = err.Error()
		return result
	}
	for _, source := range sources {
		result.Lookups = append(result.Lookups, source.Reference.String())
	}
	return result
}
