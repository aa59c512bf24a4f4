package main

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// names answers for the names of a file, a line each with an address, which is read anew for each question. It stands in
// for the cluster's DNS; since nothing forwards what goes to the address of a Service, its name leads to a pod.
func names(address, file string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	packet := make([]byte, 512)
	for {
		length, from, err := conn.ReadFrom(packet)
		if err != nil {
			return err
		}
		answer, err := answered(packet[:length], file)
		if err != nil {
			// Not a question; whoever sent it asks again or does not.
			continue
		}
		if _, err := conn.WriteTo(answer, from); err != nil {
			return err
		}
	}
}

func answered(packet []byte, file string) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(packet); err != nil {
		return nil, err
	}
	message.Response, message.Authoritative = true, true
	message.Answers, message.Authorities, message.Additionals = nil, nil, nil
	message.RCode = dnsmessage.RCodeNameError
	for _, question := range message.Questions {
		address, err := lookup(strings.TrimSuffix(question.Name.String(), "."), file)
		if err != nil {
			return nil, err
		}
		if !address.Is4() {
			continue
		}
		message.RCode = dnsmessage.RCodeSuccess
		if question.Type == dnsmessage.TypeA {
			header := dnsmessage.ResourceHeader{Name: question.Name, Class: question.Class, TTL: 1}
			message.Answers = append(message.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: address.As4()}})
		}
	}
	return message.Pack()
}

// lookup returns no valid address for a name that is not in the file.
func lookup(name, file string) (netip.Addr, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return netip.Addr{}, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if known, address, _ := strings.Cut(lines.Text(), " "); strings.EqualFold(known, name) {
			return netip.ParseAddr(address)
		}
	}
	return netip.Addr{}, nil
}
