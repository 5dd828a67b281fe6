// Who is on the market? Prints JSON.
import { GolemNetwork } from "@golem-sdk/golem-js";
import { takeUntil, timer } from "rxjs";

const glm = new GolemNetwork();
await glm.connect();
const spec = glm.market.buildScanSpecification({
  workload: { runtime: { name: "vm" }, capabilities: ["vpn"], minMemGib: 0.5, minStorageGib: 1 },
  payment: { network: process.env.PAYMENT_NETWORK! },
});
const providers = new Set<string>();
glm.market
  .scan(spec)
  .pipe(takeUntil(timer(3000)))
  .subscribe({
    next: (offer) => providers.add(`${offer.provider.name} ${offer.pricing.cpuSec > 0}`),
    complete: async () => {
      console.log(JSON.stringify([...providers].sort()));
      await glm.disconnect();
    },
  });
