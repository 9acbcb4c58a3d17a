package buffer_test

import (
	"fmt"

	"github.com/holdfast/holdfast/buffer"
)

func ExampleLog() {
	budget := buffer.NewBudget(64 << 20)
	log := buffer.NewLog(budget)
	for _, event := range []string{`2["a"]`, `2["b"]`, `2["c"]`} {
		log.Append(&buffer.Packet{Kind: buffer.WithOffset, Data: []byte(event)})
	}
	log.Trim(1) // the client has confirmed the first
	for seq := log.Trimmed() + 1; seq <= log.Last(); seq++ {
		fmt.Printf("%d %s\n", seq, log.At(seq).Data())
	}
	log.Release()
	fmt.Println(budget.Bytes(), "bytes held")
	// Output:
	// 2 2["b"]
	// 3 2["c"]
	// 0 bytes held
}
