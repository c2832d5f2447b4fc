package gonehttp_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonehttp"
	"github.com/Diggs/go-one/gonetest"
)

func Example() {
	locks := gonetest.NewLocks().Factory(0) // gone.RedisLocks("redis://…") in a program
	quiet := gone.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	g, err := gone.NewGone("tcp://127.0.0.1:0", locks, quiet)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	started := make(chan struct{})
	_, err = g.RunOne("billing", func(r *gone.GoneRunner) {
		close(started)
		<-r.Exit
	})
	if err != nil {
		log.Fatal(err)
	}
	<-started

	page := gonehttp.New(g)
	mux := http.NewServeMux()
	mux.Handle("/gone/", http.StripPrefix("/gone", page))
	server := httptest.NewServer(mux)
	server.Config.RegisterOnShutdown(page.Close) // its streams would hold that up
	defer server.Close()

	resp, err := http.Get(server.URL + "/gone/?format=json")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	var v gonehttp.View
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		log.Fatal(err)
	}
	for _, row := range v.IDs.Rows {
		fmt.Println(row.ID, row.Node == g.Addr())
	}
	// Output: billing true
}
