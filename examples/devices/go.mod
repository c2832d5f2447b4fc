module github.com/Diggs/go-one/examples/devices

go 1.25.0

require (
	github.com/Diggs/go-one v0.0.0
	github.com/alicebob/miniredis/v2 v2.40.0
)

require (
	github.com/gomodule/redigo v1.9.3 // indirect
	github.com/pebbe/zmq4 v1.4.0 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	golang.org/x/sync v0.20.0 // indirect
)

replace github.com/Diggs/go-one => ../..
