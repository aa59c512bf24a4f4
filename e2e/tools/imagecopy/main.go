// Command imagecopy copies images with the library and the options of oc-mirror: four images at a time with five layers
// each, all platforms, digests preserved, a look for signatures, and a cache of blob locations on disk. oc-mirror itself
// needs a catalog or a release; the copy is the same call.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

func main() {
	images := flag.Int("images", 4, "images at a time")
	layers := flag.Uint("layers", 5, "layers of an image at a time")
	cache := flag.String("cache", "", "folder of the cache of blob locations")
	registriesD := flag.String("registries.d", "", "folder that says where signatures are")
	certs := flag.String("certs", "", "folder with CA certificates; none for plain HTTP")
	flag.Parse()
	system := func() *types.SystemContext {
		return &types.SystemContext{
			BlobInfoCacheDir:            *cache,
			RegistriesDirPath:           *registriesD,
			DockerCertPath:              *certs,
			DockerInsecureSkipTLSVerify: types.NewOptionalBool(*certs == ""),
		}
	}
	pairs := make(chan [2]string)
	var failed sync.Map
	var workers sync.WaitGroup
	for range *images {
		workers.Go(func() {
			for pair := range pairs {
				if err := one(pair, *layers, system(), system()); err != nil {
					failed.Store(pair[1], err)
				}
			}
		})
	}
	// A line for each image: where from and where to.
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if from, to, ok := strings.Cut(lines.Text(), " "); ok {
			pairs <- [2]string{from, to}
		}
	}
	close(pairs)
	workers.Wait()
	code := 0
	failed.Range(func(name, err any) bool {
		fmt.Fprintln(os.Stderr, name, err)
		code = 1
		return true
	})
	os.Exit(code)
}

func one(pair [2]string, layers uint, source, target *types.SystemContext) error {
	from, err := docker.ParseReference("//" + pair[0])
	if err != nil {
		return err
	}
	to, err := docker.ParseReference("//" + pair[1])
	if err != nil {
		return err
	}
	// Not shared between images: it is not meant to be used by several at once.
	policy, err := signature.NewPolicyContext(&signature.Policy{
		Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()},
	})
	if err != nil {
		return err
	}
	defer policy.Destroy()
	_, err = copy.Image(context.Background(), policy, to, from, &copy.Options{
		SourceCtx:            source,
		DestinationCtx:       target,
		ImageListSelection:   copy.CopyAllImages,
		PreserveDigests:      true,
		MaxParallelDownloads: layers,
	})
	return err
}
