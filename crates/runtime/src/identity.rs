//! What a process calls itself in front of people.

/// The service, the machine and the process: `es-writer@host/4711`.
pub fn process_name(service: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{service}@{}/{}", host.trim(), std::process::id())
}
