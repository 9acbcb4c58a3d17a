import io.socket.client.IO;
import io.socket.client.Socket;
import io.socket.parser.Packet;
import io.socket.parser.Parser;
import java.net.URI;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.StringJoiner;
import java.util.UUID;
import org.json.JSONArray;
import org.json.JSONObject;

/**
 * socket.io-client-java, for clients.test.js, which puts the examples of docs/clients.md into it.
 *
 * <p>Usage: java Returning URL polling|websocket|upgrade plain|key|count
 *
 * <p>Prints one JSON object a line: {"nsp", "connected": sid}, {"nsp", "disconnected": true} and {"nsp", "n", "args": how many} for the
 * event "n".
 */
public class Returning {
    static String url;
    static String transport;

    static synchronized void say(Object... pairs) {
        try {
            JSONObject line = new JSONObject();
            for (int i = 0; i < pairs.length; i += 2) line.put((String) pairs[i], pairs[i + 1]);
            System.out.println(line);
        } catch (org.json.JSONException e) {
            throw new IllegalStateException(e);
        }
    }

    static Socket open(IO.Options options) throws Exception {
        if (!transport.equals("upgrade")) options.transports = new String[] {transport};
        options.forceNew = true;
        options.reconnectionDelay = 50;
        options.reconnectionDelayMax = 200;
        options.randomizationFactor = 0;
        return IO.socket(URI.create(url), options);
    }

    static Socket plain() throws Exception {
        return open(new IO.Options());
    }

    static Socket keyed(boolean counting) throws Exception {
        // KEY
        if (counting) {
            // COUNT
        }
        return socket;
    }

    public static void main(String[] args) throws Exception {
        url = args[0];
        transport = args[1];
        Socket socket = args[2].equals("plain") ? plain() : keyed(args[2].equals("count"));
        register("/", socket);
        Socket admin = socket.io().socket("/admin");
        register("/admin", admin);
        socket.connect();
        admin.connect();
        Thread.sleep(600_000);
    }

    static void register(String nsp, Socket socket) {
        socket.on("connect", a -> say("nsp", nsp, "connected", socket.id()));
        socket.on("disconnect", a -> say("nsp", nsp, "disconnected", true, "why", a[0]));
        socket.on("n", a -> say("nsp", nsp, "n", a[0], "args", a.length));
    }
}
