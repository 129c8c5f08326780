//! The proxy, between real sockets: scripted backends on one side, bare clients on the other.

mod ground;

mod bodies;
mod followed;
mod hashing;
mod heads;
mod hostile;
mod http2;
mod refusals;
mod retries;
mod slots;
mod slow;
mod sticky;
mod upgrades;
