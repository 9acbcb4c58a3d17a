package netpoll

// NewGoStream returns a Stream that goroutines serve.
var NewGoStream = newGoStream
