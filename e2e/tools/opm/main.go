// Command catalogclient looks at catalogs of operators as a cluster does.
//
//	catalogclient ask ADDRESS
//	catalogclient unpack [-only FOLDER] ROOT LAYER ...
//	catalogclient load FOLDER
//
// ask is OLM: it asks a running server for its packages, each of these, its bundles, and each of those by its name. unpack
// applies layers, the lowest first, with containerd's code: all of them, as a node does, or with the filter that catalogd sets
// before it, so that what lies outside of FOLDER, a whiteout of FOLDER itself included, is never seen. load reads what
// catalogd would serve of a folder. What was found goes to standard output as one JSON document.
package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/archive"
	"github.com/containerd/containerd/archive/compression"
	"github.com/operator-framework/operator-registry/alpha/declcfg"
	"github.com/operator-framework/operator-registry/pkg/api"
	"github.com/operator-framework/operator-registry/pkg/client"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch {
	case len(args) == 2 && args[0] == "ask":
		return ask(ctx, args[1])
	case len(args) == 2 && args[0] == "load":
		return load(ctx, args[1])
	case len(args) > 1 && args[0] == "unpack":
		flags := flag.NewFlagSet("unpack", flag.ContinueOnError)
		only := flags.String("only", "", "folder that is unpacked")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if flags.NArg() < 1 {
			return errors.New("unpack: where to?")
		}
		return unpack(ctx, *only, flags.Arg(0), flags.Args()[1:])
	}
	return errors.New("catalogclient ask ADDRESS | unpack [-only FOLDER] ROOT LAYER ... | load FOLDER")
}

// answer is what a server says of itself.
type answer struct {
	Packages map[string]*api.Package `json:"packages"`
	Bundles  []*bundle               `json:"bundles"`
}

// bundle is what matters of one in one channel.
type bundle struct {
	Package  string   `json:"package"`
	Channel  string   `json:"channel"`
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Image    string   `json:"image"`
	Replaces string   `json:"replaces"`
	Skips    []string `json:"skips"`
}

func ask(ctx context.Context, address string) error {
	registry, err := client.NewClient(address)
	if err != nil {
		return err
	}
	defer registry.Close()
	healthy, err := registry.HealthCheck(ctx, time.Second)
	if err != nil {
		return err
	}
	if !healthy {
		return errors.New("the server does not serve yet")
	}
	found := answer{Packages: map[string]*api.Package{}, Bundles: []*bundle{}}
	names, err := registry.Registry.ListPackages(ctx, &api.ListPackageRequest{})
	if err != nil {
		return fmt.Errorf("ListPackages: %w", err)
	}
	for {
		name, err := names.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("ListPackages: %w", err)
		}
		if found.Packages[name.Name], err = registry.GetPackage(ctx, name.Name); err != nil {
			return fmt.Errorf("GetPackage %s: %w", name.Name, err)
		}
	}
	listed, err := registry.ListBundles(ctx)
	if err != nil {
		return fmt.Errorf("ListBundles: %w", err)
	}
	for one := listed.Next(); one != nil; one = listed.Next() {
		whole, err := registry.GetBundle(ctx, one.PackageName, one.ChannelName, one.CsvName)
		if err != nil {
			return fmt.Errorf("GetBundle %s %s %s: %w", one.PackageName, one.ChannelName, one.CsvName, err)
		}
		found.Bundles = append(found.Bundles, &bundle{
			Package: whole.PackageName, Channel: whole.ChannelName, Name: whole.CsvName, Version: whole.Version,
			Image: whole.BundlePath, Replaces: whole.Replaces, Skips: append([]string{}, whole.Skips...),
		})
	}
	if err := listed.Error(); err != nil {
		return fmt.Errorf("ListBundles: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func unpack(ctx context.Context, only, root string, layers []string) error {
	only = strings.Trim(path.Clean(only), "/")
	filter := func(header *tar.Header) (bool, error) {
		if only == "." {
			return true, nil
		}
		// Owner and mode are those of whoever unpacks.
		header.Uid, header.Gid = os.Getuid(), os.Getgid()
		header.Mode |= 0o600
		if header.FileInfo().IsDir() {
			header.Mode |= 0o700
		}
		name := strings.TrimPrefix(path.Clean(header.Name), "/")
		return name == only || strings.HasPrefix(name, only+"/"), nil
	}
	for _, layer := range layers {
		if err := apply(ctx, root, layer, filter); err != nil {
			return fmt.Errorf("applying %s: %w", layer, err)
		}
	}
	return nil
}

func apply(ctx context.Context, root, layer string, filter archive.Filter) error {
	file, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := compression.DecompressStream(file)
	if err != nil {
		return err
	}
	defer content.Close()
	_, err = archive.Apply(ctx, root, content, archive.WithFilter(filter))
	return err
}

// meta names a document of a catalog.
type meta struct {
	Schema  string `json:"schema"`
	Package string `json:"package"`
	Name    string `json:"name"`
}

func load(ctx context.Context, folder string) error {
	found := []meta{}
	var one sync.Mutex
	err := declcfg.WalkMetasFS(ctx, os.DirFS(folder), func(_ string, document *declcfg.Meta, err error) error {
		if err != nil {
			return err
		}
		one.Lock()
		defer one.Unlock()
		found = append(found, meta{document.Schema, document.Package, document.Name})
		return nil
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}
