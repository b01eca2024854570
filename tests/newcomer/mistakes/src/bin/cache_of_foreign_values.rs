//! Does not compile: a bound in bytes on values of an unknown heap size.

use plimsoll::{ByteSize, Cache};

fn main() {
    let _orders: Cache<String, serde_json::Value> =
        Cache::builder("orders").max_bytes(ByteSize::mib(5)).build().expect("it has a bound");
}
