// A private network: one activity serves, the other one asks it by its address; we ask it through a TCP proxy.
import { connect } from "node:net";
import { GolemNetwork } from "@golem-sdk/golem-js";
import { order } from "./order.ts";

const SERVER =
  "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalAddr => \"0.0.0.0\", LocalPort => 7000, Listen => 5, " +
  'ReuseAddr => 1); while ($c = $s->accept) { $l = <$c>; print $c "you said $l"; close $c }\' >/dev/null 2>&1 &';

function ask(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(text + "\n"));
    socket.on("data", (data) => (answer += data));
    socket.on("end", () => resolve(answer.trim()));
    socket.on("error", reject);
  });
}

const glm = new GolemNetwork();
try {
  await glm.connect();
  const network = await glm.createNetwork({ ip: "192.168.7.0/24" });
  const pool = await glm.manyOf({ poolSize: 2, order: { ...order(["vpn"]), network } });
  const [first, second] = [await pool.acquire(), await pool.acquire()];
  const [one, two] = [await first.getExeUnit(), await second.getExeUnit()];
  await one.run(SERVER);
  const within = await two.run(`exec 3<>/dev/tcp/${one.getIp()}/7000; echo hello >&3; cat <&3`.replace(/^/, "bash -c '") + "'");
  const proxy = one.createTcpProxy(7000);
  await proxy.listen(Number(process.env.PROXY_PORT));
  const answers = await Promise.all([1, 2, 3].map((n) => ask(Number(process.env.PROXY_PORT), `call ${n}`)));
  await proxy.close();
  console.log(JSON.stringify({ ips: [one.getIp(), two.getIp()], within: String(within.stdout).trim(), answers }));
  await first.stopAndFinalize();
  await second.stopAndFinalize();
  await glm.destroyNetwork(network);
} finally {
  await glm.disconnect();
}
