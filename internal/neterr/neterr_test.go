package neterr

import (
	"io"
	"net"
	"testing"
)

func TestAddrInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = net.Listen("tcp", ln.Addr().String())
	if !IsAddrInUse(err) {
		t.Errorf("a taken address: %v is not recognized", err)
	}
	if IsRefused(err) || IsReset(err) || IsTooManyFiles(err) || IsAddrInUse(nil) || IsAddrInUse(io.EOF) {
		t.Errorf("%v, nil or EOF is taken for something else", err)
	}
}

func TestRefused(t *testing.T) {
	if _, err := net.Dial("tcp", "127.0.0.1:1"); !IsRefused(err) {
		t.Errorf("a port without a listener: %v is not recognized", err)
	}
}

func TestReset(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err = client.Read(make([]byte, 1)); !IsReset(err) {
		t.Errorf("a connection that was reset: %v is not recognized", err)
	}
}
