// Files over WebSockets: from the first provider to us, from us to the second and back; a large one; one from memory.
// Receiving into memory fails in golem-js 3.6.0 itself under node (its import of js-sha3): page.html does it.
import { createHash, randomBytes } from "node:crypto";
import { appendFile, readFile, writeFile } from "node:fs/promises";
import { GolemNetwork } from "@golem-sdk/golem-js";
import { order } from "./order.ts";

const glm = new GolemNetwork();
try {
  await glm.connect();
  const pool = await glm.manyOf({ poolSize: 2, order: order() });
  const [first, second] = [await pool.acquire(), await pool.acquire()];
  const [one, two] = [await first.getExeUnit(), await second.getExeUnit()];
  await one
    .beginBatch()
    .run(`echo "from ${one.provider.name}" > /golem/work/message.txt`)
    .downloadFile("/golem/work/message.txt", "./message.txt")
    .end();
  await appendFile("./message.txt", "from the requestor\n");
  await two
    .beginBatch()
    .uploadFile("./message.txt", "/golem/work/message.txt")
    .run(`echo "from ${two.provider.name}" >> /golem/work/message.txt`)
    .downloadFile("/golem/work/message.txt", "./results.txt")
    .end();
  const big = randomBytes(8 * 1024 * 1024 + 13);
  await writeFile("./big", big);
  await one.uploadFile("./big", "/golem/work/big");
  const sum = await one.run("sha256sum /golem/work/big");
  await one.downloadFile("/golem/work/big", "./big.back");
  await one.uploadJson({ kept: [1, 2.5, "three"] }, "/golem/work/data.json");
  const json = await one.run("cat /golem/work/data.json");
  const hash = (data: Buffer) => createHash("sha256").update(data).digest("hex");
  console.log(
    JSON.stringify({
      lines: (await readFile("./results.txt", "utf-8")).trim().split("\n"),
      providers: [one.provider.name, two.provider.name],
      there: String(sum.stdout).split(" ")[0] === hash(big),
      back: hash(await readFile("./big.back")) === hash(big),
      json: JSON.parse(String(json.stdout)),
    }),
  );
  await first.stopAndFinalize();
  await second.stopAndFinalize();
} finally {
  await glm.disconnect();
}
