package main

import (
	"path/filepath"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// What a row of a moved endpoint is about: a connection stays with its server.
func TestAnEndpointLeadsOnlyNewConnectionsElsewhere(t *testing.T) {
	service, err := startMoving(filepath.Join(t.TempDir(), "service"))
	if err != nil {
		t.Fatal(err)
	}
	defer service.stop()
	m := service.(*movingRedis)
	_, addr := m.place()
	role := func(conn redis.Conn) string {
		words, err := redis.Values(conn.Do("ROLE"))
		if err != nil {
			t.Fatal(err)
		}
		return string(words[0].([]byte))
	}
	dial := func() redis.Conn {
		conn, err := redis.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	before := dial()
	defer before.Close()
	// Where a connection leads is settled once it has been accepted, not when it is dialled.
	if at := role(before); at != "master" {
		t.Fatalf("a connection leads to a %s before the endpoint moves", at)
	}
	old := m.now
	if err := m.move(); err != nil {
		t.Fatal(err)
	}
	if err := old.follow(m.now); err != nil {
		t.Fatal(err)
	}
	after := dial()
	defer after.Close()
	if was, is := role(before), role(after); was != "slave" || is != "master" {
		t.Errorf("the old connection leads to a %s, a new one to a %s", was, is)
	}
}
