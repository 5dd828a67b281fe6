import type { MarketOrderSpec } from "@golem-sdk/golem-js";

/** What all programs here rent. */
export function order(capabilities: string[] = []): MarketOrderSpec {
  return {
    demand: { workload: { imageTag: "golem/alpine:latest", capabilities } },
    market: {
      rentHours: 0.25,
      pricing: { model: "linear", maxStartPrice: 0.5, maxCpuPerHourPrice: 1, maxEnvPerHourPrice: 0.5 },
    },
  };
}
