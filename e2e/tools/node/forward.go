package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// A socket stays in the network namespace that it was made in. So the program listens in the one, then turns into itself
// in the other, where it dials: no thread changes its namespace.

// enter turns into this program with other arguments, in the network namespace that the file names.
func enter(namespace string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	argv := append([]string{"nsenter", "--net=" + namespace, self}, args...)
	return syscall.Exec(nsenter, argv, os.Environ())
}

func listen(dialIn, address, target string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	// A copy that exec does not close.
	inherited, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		return err
	}
	return enter(dialIn, "accept", strconv.Itoa(inherited), target)
}

func accept(inherited, target string) error {
	number, err := strconv.Atoi(inherited)
	if err != nil {
		return err
	}
	listener, err := net.FileListener(os.NewFile(uintptr(number), "listener"))
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := relay(conn.(*net.TCPConn), target); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
}

// relay copies both ways. An end of one direction is passed on, a fault ends both.
func relay(from *net.TCPConn, target string) error {
	defer from.Close()
	conn, err := net.Dial("tcp", target)
	if err != nil {
		return err
	}
	to := conn.(*net.TCPConn)
	defer to.Close()
	faults := make(chan error, 2)
	pass := func(into, out *net.TCPConn) {
		_, err := io.Copy(into, out)
		if err == nil {
			err = into.CloseWrite()
		} else {
			into.Close()
			out.Close()
		}
		faults <- err
	}
	go pass(to, from)
	go pass(from, to)
	return errors.Join(<-faults, <-faults)
}
