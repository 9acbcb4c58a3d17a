package netpoll

// NewGoStream makes a Stream that goroutines serve.
var NewGoStream = newGoStream
