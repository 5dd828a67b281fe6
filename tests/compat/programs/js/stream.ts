// Output as it comes, an exit code, and how long after its printing each line arrived. Prints JSON at last.
import { GolemNetwork } from "@golem-sdk/golem-js";
import { order } from "./order.ts";

const glm = new GolemNetwork();
try {
  await glm.connect();
  const rental = await glm.oneOf({ order: order() });
  const exe = await rental.getExeUnit();
  const seen: { kind: string; text: string; at: number }[] = [];
  const remote = await exe.runAndStream(
    "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.5; done; exit 7",
  );
  remote.stdout.subscribe((data) => seen.push({ kind: "out", text: String(data), at: Date.now() }));
  remote.stderr.subscribe((data) => seen.push({ kind: "err", text: String(data), at: Date.now() }));
  const result = await remote.waitForExit();
  const after = await exe.run("echo still there");
  await rental.stopAndFinalize();
  console.log(JSON.stringify({ seen, result: result.result, message: result.message, after: after.stdout }));
} finally {
  await glm.disconnect();
}
