module github.com/Diggs/go-one/examples/irc

go 1.25.0

require (
	github.com/Diggs/go-one v0.0.0
	github.com/alicebob/miniredis/v2 v2.40.0
	github.com/gomodule/redigo v1.9.3
	golang.org/x/term v0.43.0
)

require (
	github.com/pebbe/zmq4 v1.4.0 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	golang.org/x/sync v0.20.0 // indirect
	golang.org/x/sys v0.44.0 // indirect
)

replace github.com/Diggs/go-one => ../..
