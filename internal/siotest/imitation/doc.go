// Package imitation imitates Socket.IO clients and servers that cannot run in the tests, byte for
// byte as far as a proxy sees them. It is written from their sources: it shows that holdfast works
// with what these specify, and not that the clients and servers themselves work. The requests of
// Java and C++ are also captured from the clients: `make clients` runs them.
//
// An imitated client has the same handshakes, polling requests, upgrade, CONNECT and answers to
// pings, and reacts in the same way to the end of its connection:
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
// All imitated servers speak only Engine.IO 3. They have the same transports, upgrade, payloads,
// replies and order of handlers, and mishandle the same input:
//
//   - netty-socketio 1.7.23 (PacketEncoder, PacketDecoder, EncoderHandler, InPacketHandler,
//     PollingTransport)
//   - python-engineio 3.14.2 (payload.py, socket.py, server.py), python-socketio 4.6.1 (packet.py,
//     server.py)
//   - phpsocket.io 2.2 (Engine/Parser.php, Engine/Engine.php, Parser/Encoder.php, Nsp.php)
package imitation
