module github.com/Diggs/go-one

go 1.25.0

require (
	github.com/golang/glog v1.2.5
	github.com/gomodule/redigo v1.9.3
	github.com/pebbe/zmq4 v1.4.0
	golang.org/x/sync v0.20.0
)
