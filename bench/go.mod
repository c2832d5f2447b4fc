module github.com/Diggs/go-one/bench

go 1.25.0

replace github.com/Diggs/go-one => ../

require (
	github.com/Diggs/go-one v0.0.0
	github.com/bsm/redislock v0.9.4
	github.com/go-redsync/redsync/v4 v4.17.0
	github.com/gomodule/redigo v1.9.3
	github.com/redis/go-redis/v9 v9.21.0
	github.com/redis/rueidis v1.0.79
	golang.org/x/sync v0.21.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/golang/glog v1.2.5 // indirect
	github.com/pebbe/zmq4 v1.4.0 // indirect
	go.uber.org/atomic v1.11.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
