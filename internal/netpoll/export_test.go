package netpoll

// NewGoStream makes a Stream that no event loop serves.
var NewGoStream = newGoStream
