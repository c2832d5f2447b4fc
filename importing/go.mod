module github.com/Diggs/go-one/importing

go 1.25.0

replace github.com/Diggs/go-one => ../

require (
	github.com/Diggs/go-one v0.0.0
	go.uber.org/goleak v1.3.0
	k8s.io/klog/v2 v2.140.0
)

require (
	github.com/go-logr/logr v1.4.1 // indirect
	github.com/gomodule/redigo v1.9.3 // indirect
	github.com/pebbe/zmq4 v1.4.0 // indirect
	golang.org/x/sync v0.20.0 // indirect
)
