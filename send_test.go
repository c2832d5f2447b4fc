package gone_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

func numbered(prefix string, n int) (msgs [][]byte, want []string) {
	for i := range n {
		s := fmt.Sprint(prefix, " ", i+1)
		msgs, want = append(msgs, []byte(s)), append(want, s)
	}
	return msgs, want
}

func TestABatchArrivesInOrderAndCompletely(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, stranger := startNode(t, locks), startNode(t, locks)
	for _, g := range []*gone.Gone{holder, stranger} {
		var in inbox
		r := hold(t, holder, "a", in.run)
		msgs, want := numbered("b", 10_000) // several windows
		n, err := g.SendBatch(context.Background(), "a", msgs)
		if n != len(msgs) || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
		eventually(t, 5*time.Second, "handlers take note", func() bool { return len(in.all()) == len(want) })
		if got := in.all(); !slices.Equal(got, want) {
			t.Errorf("received something else, or in another order")
		}
		_ = r.Close()
		within(t, 5*time.Second, "end", r.Exit)
	}
}

func TestABatchGoesOnWithTheNextHolderWhereTheLastOneStopped(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	sender := startNode(t, locks)
	var in inbox
	quit := make(chan struct{})
	run := func() *gone.Gone {
		g := startNode(t, locks)
		runOne(t, g, "a", func(r *gone.GoneRunner) {
			for {
				select {
				case data := <-r.Data:
					in.add(data)
					if len(in.all())%700 == 0 { // often in the middle of a frame
						return
					}
				case <-r.Exit:
					return
				case <-quit:
					return
				}
			}
		})
		return g
	}
	run()
	run()
	defer close(quit)
	msgs, want := numbered("b", 5_000)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n, err := sender.SendBatch(ctx, "a", msgs)
	if n != len(msgs) || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	// The handler has the last one, and is about to note it.
	eventually(t, 10*time.Second, "all are noted", func() bool { return len(in.all()) >= len(want) })
	if got := in.all(); !slices.Equal(got, want) {
		t.Errorf("received %d, something else, or in another order", len(got))
	}
}

func TestABatchCountsWhatWasReceivedWhenItsContextEnds(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, stranger := startNode(t, locks), startNode(t, locks)
	for i, g := range []*gone.Gone{holder, stranger} {
		var in inbox
		id := fmt.Sprint("a", i)
		hold(t, holder, id, func(r *gone.GoneRunner) {
			for range 10 {
				in.add(<-r.Data)
			}
			<-r.Exit
		})
		msgs, want := numbered("b", 100)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			eventually(t, 5*time.Second, "ten are received", func() bool { return len(in.all()) == 10 })
			cancel()
		}()
		n, err := g.SendBatch(ctx, id, msgs)
		isOnly(t, err, gone.ErrNotDelivered, context.Canceled)
		if got := in.all(); n != 10 || !slices.Equal(got, want[:10]) {
			t.Errorf("delivered %d, received %q", n, got)
		}
	}
}

func TestABatchStopsAtWhatIsTooLarge(t *testing.T) {
	locks := startRedis(t).locks(0)
	g := startNode(t, locks, gone.WithMaxMessageSize(10))
	var in inbox
	hold(t, g, "a", in.run)
	n, err := g.SendBatch(context.Background(), "a", [][]byte{{1}, {2}, make([]byte, 11), {4}})
	isOnly(t, err, gone.ErrNotDelivered, gone.ErrTooLarge)
	if n != 2 {
		t.Errorf("delivered %d, want 2", n)
	}
}

func TestABatchWithoutADeadlineLastsAsLongAsItsMessagesAreReceived(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	const patience = 800 * time.Millisecond
	holder, stranger := startNode(t, locks, gone.WithSendTimeout(patience)), startNode(t, locks, gone.WithSendTimeout(patience))
	hold(t, holder, "a", func(r *gone.GoneRunner) {
		for {
			select {
			case <-r.Data:
				select { // the handler is slow
				case <-time.After(patience / 10):
				case <-r.Exit:
				}
			case <-r.Exit:
				return
			}
		}
	})
	for _, g := range []*gone.Gone{holder, stranger} {
		msgs, _ := numbered("b", 30) // three times the patience
		if n, err := g.SendBatch(context.Background(), "a", msgs); n != len(msgs) || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
	}
}

func TestTrySendDataHandsOverOnlyToAHandlerThatIsReceiving(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, stranger := startNode(t, locks), startNode(t, locks)
	for i, g := range []*gone.Gone{holder, stranger} {
		id := fmt.Sprint("a", i)
		isOnly(t, g.TrySendData(id, []byte("x")), gone.ErrNotDelivered, gone.ErrNoHolder)

		receive := make(chan struct{})
		got := make(chan []byte)
		hold(t, holder, id, func(r *gone.GoneRunner) {
			for {
				select {
				case <-receive:
				case <-r.Exit:
					return
				}
				select {
				case data := <-r.Data:
					got <- data
				case <-r.Exit:
					return
				}
			}
		})
		isOnly(t, g.TrySendData(id, []byte("x")), gone.ErrNotDelivered, gone.ErrBusy)

		receive <- struct{}{}
		eventually(t, 5*time.Second, "the handler is ready", func() bool {
			err := g.TrySendData(id, []byte("y"))
			if err != nil && !errors.Is(err, gone.ErrBusy) {
				t.Fatal(err)
			}
			return err == nil
		})
		if data := within(t, 5*time.Second, "data", got); string(data) != "y" {
			t.Errorf("received %q", data)
		}
	}
}

func TestHolderNamesWhoHoldsTheID(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, stranger := startNode(t, locks), startNode(t, locks)
	ctx := context.Background()
	_, err := holder.Holder(ctx, "a")
	if !errors.Is(err, gone.ErrNoHolder) {
		t.Errorf("got %v", err)
	}
	tokens := make(chan uint64, 1)
	hold(t, holder, "a", func(r *gone.GoneRunner) {
		tokens <- r.FencingToken()
		<-r.Exit
	})
	token := <-tokens
	for g, here := range map[*gone.Gone]bool{holder: true, stranger: false} {
		h, err := g.Holder(ctx, "a")
		if want := (gone.Holder{Addr: holder.Addr(), Token: token, Here: here}); h != want || err != nil {
			t.Errorf("got %+v, %v, want %+v", h, err, want)
		}
	}
	_ = stranger.Close()
	if _, err := stranger.Holder(ctx, "a"); !errors.Is(err, gone.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// drain is a handler that takes what comes.
func drain(r *gone.GoneRunner) {
	for {
		select {
		case <-r.Data:
		case <-r.Exit:
			return
		}
	}
}

// To the node itself, and to another one in this process, through the loopback
// interface.
func BenchmarkSendData(b *testing.B) {
	locks := startRedis(b).locks(0)
	holder, stranger := startNode(b, locks), startNode(b, locks)
	hold(b, holder, "a", drain)
	data := make([]byte, 128)
	for _, from := range []struct {
		name string
		node *gone.Gone
	}{{"here", holder}, {"remote", stranger}} {
		must(b, from.node.SendData("a", data))
		b.Run(from.name+"/goroutines=1", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				must(b, from.node.SendData("a", data))
			}
		})
		b.Run(from.name+"/goroutines=256", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(256 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := from.node.SendData("a", data); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	b.Run("remote/batch", func(b *testing.B) {
		b.ReportAllocs()
		msgs := slices.Repeat([][]byte{data}, 1000)
		for b.Loop() {
			if n, err := stranger.SendBatch(b.Context(), "a", msgs); n != len(msgs) || err != nil {
				b.Fatal(n, err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(msgs)), "ns/message")
	})
}
