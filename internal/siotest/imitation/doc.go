// Package imitation imitates Socket.IO clients that cannot run in the tests, byte for byte as far as a
// proxy sees them: the handshake over WebSocket, the CONNECT, the answers to pings, and what the
// client makes of the end of its connection. It is written after the clients' sources: it shows that
// holdfast suits what these say, and not that the clients themselves work.
//
//   - Java: socket.io-client-java 2.1, engine.io-client-java 2.1 (WebSocket.java), OkHttp 3.12 (RealWebSocket.java,
//     BridgeInterceptor.java)
//   - C++: socket.io-client-cpp 3.1 (sio_client_impl.cpp, sio_packet.cpp), websocketpp 0.8.2
package imitation
