module github.com/Diggs/go-one/goredislock

go 1.25.0

replace github.com/Diggs/go-one => ../

require (
	github.com/Diggs/go-one v0.0.0
	github.com/redis/go-redis/v9 v9.21.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/gomodule/redigo v1.9.3 // indirect
	github.com/pebbe/zmq4 v1.4.0 // indirect
	go.uber.org/atomic v1.11.0 // indirect
	golang.org/x/sync v0.20.0 // indirect
)
