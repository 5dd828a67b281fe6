"""The network: a port (:mod:`golemp2p.net.port`) and its adapters, libp2p and memory; rpc and bulk data above it."""
