// A chat as it could have been written in 2022. It knows nothing of recovery. Only the events
// "away" and "back" are new: with them holdfast reports whether a client is connected.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { Server } from "socket.io";

const ROOMS = ["lobby", "kitchen", "garden"];
const page = new URL("public/index.html", import.meta.url);

/** Starts the chat on a free port of this machine. With `botEvery`, in ms, a bot talks in each room. */
export async function startChat({ botEvery = 3000 } = {}) {
  const http = createServer(async (req, res) => {
    if (req.url !== "/") return res.writeHead(404).end("no such page\n");
    res.writeHead(200, { "content-type": "text/html; charset=utf-8", "cache-control": "no-cache" }).end(await readFile(page));
  });
  const io = new Server(http);
  let visitors = 0;

  const people = async (room) => {
    const sockets = await io.in(room).fetchSockets();
    io.to(room).emit("people", sockets.map(({ id, data }) => ({ id, name: data.name, away: data.away })));
  };

  io.on("connection", (socket) => {
    socket.data.name = `Guest ${++visitors}`;
    socket.data.away = false;

    const enter = (room) => {
      const left = socket.data.room;
      if (left) socket.leave(left);
      socket.join(room);
      socket.data.room = room;
      if (left) people(left);
      people(room);
    };
    enter(ROOMS[0]);
    socket.emit("welcome", { name: socket.data.name, rooms: ROOMS, room: socket.data.room });

    socket.on("enter", (room, done) => {
      if (!ROOMS.includes(room) || typeof done !== "function") return;
      enter(room);
      done(room);
    });
    socket.on("say", (text) => {
      const { name, room } = socket.data;
      text = String(text).trim().slice(0, 500);
      if (text) io.to(room).emit("message", { name, room, text });
    });
    socket.on("typing", () => socket.to(socket.data.room).emit("typing", socket.data.name));
    socket.on("here", (done) => typeof done === "function" && done(socket.data.room));

    // From holdfast. Clients cannot send these.
    for (const event of ["away", "back"]) {
      socket.on(event, () => {
        socket.data.away = event === "away";
        people(socket.data.room);
      });
    }
    socket.on("disconnect", () => people(socket.data.room));
  });

  let minutes = 0;
  const talk = () => {
    minutes++;
    for (const room of ROOMS) io.to(room).emit("message", { name: "Clock", room, text: `It is ${new Date().toLocaleTimeString()}. (${minutes})` });
  };
  const bot = botEvery > 0 && setInterval(talk, botEvery);

  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${http.address().port}`,
    stop() {
      clearInterval(bot);
      io.close();
      http.closeAllConnections();
    },
  };
}
