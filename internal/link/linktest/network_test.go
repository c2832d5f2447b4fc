package linktest

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
)

func TestFramesThatArriveAtTheSameTimeStayInOrder(t *testing.T) {
	test := func(t *testing.T) {
		const frames = 2_000
		n := New()
		done := make(chan struct{})
		var got uint32
		n.Host("b").Receive(func(frame []byte, _ string) {
			if at := binary.BigEndian.Uint32(frame); at != got {
				t.Errorf("frame %d came instead of %d", at, got)
			}
			if got++; got == frames {
				close(done)
			}
		})
		c, _ := n.Host("a").Dial("b")
		for i := range uint32(frames) {
			c.Send(binary.BigEndian.AppendUint32(nil, i))
		}
		<-done
	}
	t.Run("in a bubble", func(t *testing.T) { synctest.Test(t, test) })
	t.Run("in real time", test)
}
