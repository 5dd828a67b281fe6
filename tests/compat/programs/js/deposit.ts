// Two rentals paid from tokens that somebody else locked: contract and id are the arguments.
import { GolemNetwork } from "@golem-sdk/golem-js";
import { order } from "./order.ts";

const [contract, id] = process.argv.slice(2);
const glm = new GolemNetwork();
try {
  await glm.connect();
  const allocation = await glm.payment.createAllocation({
    deposit: { contract, id },
    budget: 1.5,
    expirationSec: 600,
  });
  for (const name of ["one", "two"]) {
    const rental = await glm.oneOf({ order: { ...order(), payment: { allocation } } });
    const exe = await rental.getExeUnit();
    console.log((await exe.run(`echo task ${name}`)).stdout);
    await rental.stopAndFinalize();
  }
  await glm.payment.releaseAllocation(allocation);
} finally {
  await glm.disconnect();
}
