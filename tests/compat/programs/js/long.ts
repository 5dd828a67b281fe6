// Rents, says so, then works in small steps until told otherwise by a file; for tests that break things meanwhile.
import { existsSync } from "node:fs";
import { GolemNetwork } from "@golem-sdk/golem-js";
import { order } from "./order.ts";

const glm = new GolemNetwork();
let step = 0;
try {
  await glm.connect();
  const rental = await glm.oneOf({ order: order() });
  console.log(`agreement ${rental.agreement.id}`);
  const exe = await rental.getExeUnit();
  console.log(`ready on ${exe.provider.name}`);
  while (!existsSync("./stop")) {
    const result = await exe.run(`echo ${step}; sleep 0.3`);
    if (String(result.stdout).trim() === String(step)) console.log(`step ${step++}`);
    else console.log(`failed: ${result.message}`);
  }
  await rental.stopAndFinalize();
  console.log("finalized");
} finally {
  await glm.disconnect();
}
