// Command relverify says whether a cluster would take releases for genuine, given the signatures that it has.
//
//	relverify -kubeconfig FILE -keys FILE DIGEST ...
//
// It asks the API server as OpenShift's version operator does, with the code of that: every ConfigMap in
// openshift-config-managed with the label for release signatures is looked at. Keys are in ASCII armor. One JSON document
// goes to standard output: the digests, and for each why it is refused, or an empty text. The exit code is 0 also when a
// digest is refused, since that is an answer.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/openshift/library-go/pkg/verify"
	"github.com/openshift/library-go/pkg/verify/store/configmap"
	//lint:ignore SA1019 the type is part of the library's interface
	"golang.org/x/crypto/openpgp"
	"golang.org/x/time/rate"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "file that says how to reach the API server")
	keys := flag.String("keys", "", "file with keys in ASCII armor")
	flag.Parse()
	if err := run(*kubeconfig, *keys, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(kubeconfig, keys string, digests []string) error {
	file, err := os.Open(keys)
	if err != nil {
		return err
	}
	defer file.Close()
	ring, err := openpgp.ReadArmoredKeyRing(file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", keys, err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	store := configmap.NewStore(client.CoreV1(), rate.NewLimiter(rate.Inf, 1))
	verifier := verify.NewReleaseVerifier(map[string]openpgp.EntityList{"keys": ring}, store)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer := map[string]string{}
	for _, digest := range digests {
		answer[digest] = ""
		if err := verifier.Verify(ctx, digest); err != nil {
			answer[digest] = err.Error()
			if cause := errors.Unwrap(err); cause != nil {
				answer[digest] += ": " + cause.Error()
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}
