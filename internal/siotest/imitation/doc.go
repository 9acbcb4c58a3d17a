// Package imitation imitates Socket.IO clients and servers that cannot run in the tests, byte for
// byte as far as a proxy sees them. It is written after their sources: it shows that holdfast suits
// what these say, and not that the clients and servers themselves work. Java's and C++'s requests
// are also captured from the clients: `make clients` runs them.
//
// Of a client it is the handshakes, the requests of polling, the upgrade, the CONNECT, the answers
// to pings, and what the client makes of the end of its connection:
//
//   - Java: socket.io-client-java 2.1, engine.io-client-java 2.1, OkHttp 3.13
//   - C++: socket.io-client-cpp 3.1 (sio_client_impl.cpp, sio_packet.cpp), websocketpp 0.8.2
//   - Swift: socket.io-client-swift 16.1 (SocketEngine.swift, SocketEnginePollable.swift,
//     SocketManager.swift), Starscream 4 (HTTPHandler.swift); the headers of URLSession are from
//     its documentation
//   - C#: socket.io-client-csharp 4.0.2 (SocketIO.cs, HttpSession.cs, WebSocketSession.cs,
//     HttpAdapter.cs, EngineIO4Adapter.cs)
//   - Dart: socket.io-client-dart 3.1 (socket.dart, manager.dart), dart-lang/sdk
//     (websocket_impl.dart)
//
// Of a server, all of which speak Engine.IO 3 only, it is both transports and the upgrade, the form
// of payloads and replies, when its handlers run, and what it mishandles:
//
//   - netty-socketio 1.7.23 (PacketEncoder, PacketDecoder, EncoderHandler, InPacketHandler,
//     PollingTransport)
//   - python-engineio 3.14.2 (payload.py, socket.py, server.py), python-socketio 4.6.1 (packet.py,
//     server.py)
//   - phpsocket.io 2.2 (Engine/Parser.php, Engine/Engine.php, Parser/Encoder.php, Nsp.php)
package imitation
