use plimsoll::Monitor;
use plimsoll::monitor::BuildError;

fn main() -> Result<(), BuildError> {
    let monitor = match std::env::args().nth(1).as_deref() {
        Some("required") => Monitor::builder().require_allocator().install()?,
        _ => Monitor::install_from_env(),
    };
    monitor.start("order-1").finish();
    Ok(())
}
