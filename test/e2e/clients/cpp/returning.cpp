// socket.io-client-cpp, for clients.test.js.
//
// Usage: returning URL websocket plain|key
//
// Prints one JSON object a line: {"nsp", "connected": sid}, {"nsp", "disconnected": true} and
// {"nsp", "n", "args": how many} for the event "n".
#include <chrono>
#include <iostream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "sio_client.h"

static std::mutex printing;

static void say(const std::string& line) {
    std::lock_guard<std::mutex> lock(printing);
    std::cout << line << std::endl;
}

static std::string random_key() {
    std::random_device random;
    std::string key;
    for (int i = 0; i < 32; i++) key += "0123456789abcdef"[random() % 16];
    return key;
}

static void listen(sio::client& client, const std::string& nsp) {
    client.socket(nsp)->on("n", [nsp](sio::event& event) {
        say("{\"nsp\":\"" + nsp + "\",\"n\":" + std::to_string(event.get_messages()[0]->get_int()) +
            ",\"args\":" + std::to_string(event.get_messages().size()) + "}");
    });
}

int main(int, char** argv) {
    sio::client client;
    client.set_reconnect_delay(50);
    client.set_reconnect_delay_max(200);
    client.set_logs_quiet();
    client.set_socket_open_listener([&](const std::string& nsp) {
        // It calls "/" an empty string here. Its only id is the connection's, which is overwritten
        // by that of each namespace.
        say("{\"nsp\":\"" + (nsp.empty() ? "/" : nsp) + "\",\"connected\":\"" + client.get_sessionid() + "\"}");
    });
    client.set_reconnecting_listener([] { say("{\"nsp\":\"/\",\"disconnected\":true}"); });
    client.set_close_listener([](const sio::client::close_reason&) { say("{\"gone\":true}"); });
    listen(client, "/");
    std::map<std::string, std::string> query;
    if (std::string(argv[3]) == "key") query["hf_key"] = random_key();
    client.connect(argv[1], query);
    std::this_thread::sleep_for(std::chrono::minutes(10));
}
