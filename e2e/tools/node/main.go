// The helper of the node.
//
//	node                                            keeps namespaces open until it is asked to end
//	node names LISTEN FILE                          answers DNS questions for the names in a file
//	node forward LISTEN_NET DIAL_NET LISTEN TARGET  listens in one network namespace and dials in another; prints where
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		// Whatever is left to the first process of a namespace is reaped by the kernel.
		signal.Ignore(syscall.SIGCHLD)
		// Blocking on nothing at all would be reported as a deadlock.
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
		<-asked
		return nil
	case len(args) == 3 && args[0] == "names":
		return names(args[1], args[2])
	case len(args) == 5 && args[0] == "forward":
		return enter(args[1], "listen", args[2], args[3], args[4])
	case len(args) == 4 && args[0] == "listen":
		return listen(args[1], args[2], args[3])
	case len(args) == 3 && args[0] == "accept":
		return accept(args[1], args[2])
	}
	return fmt.Errorf("usage: node | node names LISTEN FILE | node forward LISTEN_NET DIAL_NET LISTEN TARGET")
}
