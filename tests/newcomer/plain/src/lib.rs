use plimsoll::Monitor;

pub fn app() -> Monitor {
    Monitor::install_from_env()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_without_allocator_reports_the_rss_only() {
        let report = app().start("order-1").finish();
        assert!(report.heap.is_none());
        assert_eq!(report.rss.is_some(), cfg!(target_os = "linux"));
    }
}
