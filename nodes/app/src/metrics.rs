//! `/metrics` for Prometheus, `/livez` and `/readyz` for process supervisors and load balancers.
//!
//! `/livez` reports only that the process lives (see `alive`); `/readyz` that this node takes calls. They are
//! served outside the main event loop (see `watchdog`), on a TCP port and on a local Unix socket.

use std::{
    fmt::Write,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio_util::sync::CancellationToken;
use tracing::error;
use twinbox_calls::LoadView;
use twinbox_media::{BOUNDS_US, Quality};

use crate::{
    AppError, alarms, alive, certificates,
    health::{self, Health},
    members::NodeFacts,
    node::Node,
};

/// Sources of the pages.
#[derive(Clone)]
struct Pages {
    node: Arc<Node>,
    health: Arc<Health>,
    facts: Arc<NodeFacts>,
}

/// A bound listener for the pages.
pub enum Door {
    /// Listener for the network.
    Tcp(TcpListener),
    /// Listener for this machine, with its path.
    Unix(UnixListener, PathBuf),
}

/// Path of the local health socket: next to the administrators' socket.
pub fn local_socket(admin_socket: &Path) -> PathBuf {
    let mut name = admin_socket.as_os_str().to_owned();
    name.push(".health");
    name.into()
}

/// Binds the address.
pub fn bind(address: SocketAddr) -> Result<Door, AppError> {
    let bound = TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| Door::Tcp(l)));
    bound.map_err(|source| AppError::Bind { address, what: "metrics (metrics.bind)", source })
}

/// Binds the local socket; a socket left by a killed process is replaced.
pub fn bind_local(admin_socket: &Path) -> Result<Door, AppError> {
    let path = local_socket(admin_socket);
    let bound = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            let taken = "another node answers there: give each its own node.admin_socket";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Door::Unix(listener, path.clone()))
    };
    bound().map_err(|source| AppError::AdminSocket { path: path.clone(), source })
}

/// Serves until stopped, on the runtime that it is spawned on.
pub async fn serve(
    door: Door,
    node: Arc<Node>,
    health: Arc<Health>,
    facts: Arc<NodeFacts>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(Pages { node, health, facts });
    let stopped = stop.cancelled_owned();
    let served = match door {
        Door::Tcp(listener) => match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => axum::serve(listener, router).with_graceful_shutdown(stopped).await,
            Err(error) => Err(error),
        },
        Door::Unix(listener, path) => {
            let served = match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router).with_graceful_shutdown(stopped).await,
                Err(error) => Err(error),
            };
            // The socket may have been removed already.
            let _ = std::fs::remove_file(path);
            served
        }
    };
    if let Err(error) = served {
        error!(%error, "the metrics listener has ended");
    }
}

async fn livez(State(pages): State<Pages>) -> impl IntoResponse {
    match alive::why_not(&pages.node.media) {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.health.why_not_ready(&pages.node) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

/// Rendered in a separate thread: a source of figures may hang, and the other pages must answer then.
async fn metrics(State(pages): State<Pages>) -> Result<impl IntoResponse, StatusCode> {
    let page = tokio::task::spawn_blocking(move || render(&pages)).await;
    let page = page.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page))
}

/// Metrics of the health checks.
fn render_health(page: &mut Page, health: &Health) {
    let mut histogram = |name: &str, help: &str, tally: &health::Tally| {
        let (counts, sum_us) = tally.view();
        page.histogram(name, help, &health::BOUNDS_US, &counts, sum_us);
    };
    histogram("twinbox_durable_write_seconds", "How long a probe's durable write took.", &health.writes);
    histogram(
        "twinbox_self_test_seconds",
        "The node's calls to itself: INVITE sent to a fifth of a second of tone heard.",
        &health.self_tests.time,
    );
    histogram("twinbox_event_loop_lag_seconds", "How late the event loop came round.", &health.pulse.lag);
    page.counter(
        "twinbox_self_tests_total",
        "The node's calls to itself.",
        [("passed", &health.self_tests.passed), ("failed", &health.self_tests.failed)]
            .map(|(outcome, count)| (format!("outcome=\"{outcome}\""), count.load(Relaxed) as f64)),
    );
    let hung = f64::from(u8::from(health.pulse.hung()));
    page.gauge("twinbox_event_loop_hung", "The event loop does not turn.", [plain(hung)]);
    page.gauge(
        "twinbox_cpu_ratio",
        "Processor in use, of what this process may use.",
        [("second", health.cpu_now()), ("minute", health.measured().map_or(0, |m| m.cpu_permille))]
            .map(|(over, share)| (format!("over=\"{over}\""), f64::from(share) / 1_000.0)),
    );
    let free = health.measured().map(|measured| measured.free_bytes as f64);
    page.gauge("twinbox_free_bytes", "Free on the data disk.", free.map(plain));
}

/// Exposition format, version 0.0.4. Contains no names of persons or mailboxes.
fn render(pages: &Pages) -> String {
    let info = pages.facts.show();
    let mut page = Page::default();
    page.gauge("twinbox_info", "Version of the running program.", [(format!("version=\"{}\"", info.version), 1.0)]);
    page.gauge("twinbox_uptime_seconds", "Since the process began.", [plain(info.uptime_ms as f64 / 1_000.0)]);
    page.gauge("twinbox_calls", "Calls in progress.", [plain(f64::from(info.calls))]);
    page.gauge("twinbox_calls_max", "Calls at once before 503.", [plain(f64::from(info.max_calls))]);
    page.counter(
        "twinbox_acknowledged_total",
        "Changes acknowledged, by how many disks have them.",
        [
            ("how=\"on-two\"".to_owned(), info.acknowledged_on_two as f64),
            ("how=\"alone\"".to_owned(), info.acknowledged_alone as f64),
        ],
    );
    page.gauge(
        "twinbox_service_ok",
        "Critical services of this node.",
        info.services.iter().map(|s| (format!("service=\"{}\"", s.name), f64::from(u8::from(s.ok)))),
    );
    page.counter(
        "twinbox_service_restarts_total",
        "Local restarts of critical services.",
        info.services.iter().map(|s| (format!("service=\"{}\"", s.name), f64::from(s.restarts))),
    );
    render_health(&mut page, &pages.health);
    page.gauge(
        "twinbox_certificate_expires_seconds",
        "Until a certificate ends; the node's own is renewed at two thirds of its life.",
        [
            ("node", pages.node.config.cluster.tls.expires()),
            ("authority", pages.node.config.cluster.tls.authority_expires()),
        ]
        .map(|(which, end)| (format!("certificate=\"{which}\""), certificates::left(end).as_secs_f64())),
    );
    alarms::measure(&pages.node.alarms, &mut page);
    let view = pages.node.roles.watch().borrow().clone();
    page.gauge(
        "twinbox_quorum",
        "A majority of the voters is in reach.",
        [plain(f64::from(u8::from(view.quorum)))],
    );
    let publisher = view.publisher.as_ref() == Some(&pages.node.name);
    page.gauge("twinbox_publisher", "This node is the publisher.", [plain(f64::from(u8::from(publisher)))]);
    page.gauge(
        "twinbox_duty_held",
        "Duties whose lease this node has now.",
        view.duties.iter().map(|d| {
            let held = pages.node.roles.gate(d.duty).holding().borrow().is_some();
            (format!("duty=\"{}\"", d.duty), f64::from(u8::from(held)))
        }),
    );
    page.gauge(
        "twinbox_behind_changes",
        "Changes that a peer is known to have and that are not here; above 1000: far behind.",
        [plain(pages.node.peers.behind() as f64)],
    );
    let lease = pages.node.config.cluster.timing.agreed(&pages.node.roles.agreed()).lease;
    page.gauge("twinbox_lease_seconds", "How long a lease runs.", [plain(lease.as_secs_f64())]);
    page.gauge(
        "twinbox_lease_longest_gap_seconds",
        "In the last 15 minutes: from a granted keep-alive's sending to the next one's answer; less than a lease.",
        pages.node.roles.longest_gap().map(|gap| plain(gap.as_secs_f64())),
    );
    page.counter(
        "twinbox_sip_probes_total",
        "Rounds of asking a node that is not heard at its SIP addresses, by whether it answered.",
        pages
            .node
            .shows
            .counts()
            .into_iter()
            .map(|(node, answer, count)| (format!("node=\"{node}\",answer=\"{answer}\""), count as f64)),
    );
    let peers = pages.node.peers.status();
    let of_peer = |peer: &twinbox_ids::NodeName| format!("peer=\"{peer}\"");
    page.gauge(
        "twinbox_peer_counts",
        "The peer answers in time: writes wait for it.",
        peers.iter().map(|p| (of_peer(&p.name), f64::from(u8::from(p.counts)))),
    );
    page.gauge(
        "twinbox_peer_lag_changes",
        "Changes that the peer has not confirmed.",
        peers.iter().map(|p| (of_peer(&p.name), p.lag_changes as f64)),
    );
    if let Some(calls) = pages.node.calls() {
        let stats = calls.stats();
        page.counter(
            "twinbox_sip_total",
            "What happened at the SIP door.",
            stats.counters.iter().map(|(name, count)| (format!("what=\"{name}\""), *count as f64)),
        );
        admission(&mut page, &stats.overload);
        for (name, help, times) in [
            ("twinbox_answer_seconds", "INVITE received to 200 sent.", &stats.answer_time),
            ("twinbox_bye_seconds", "BYE received to its answer sent.", &stats.bye_time),
        ] {
            page.histogram(name, help, times.bounds_us, &times.counts, times.sum_us);
        }
    }
    page.gauge(
        "twinbox_media_still_seconds",
        "How long the stillest media thread has not come round; /livez says 503 above 5.",
        [plain(pages.node.media.still_for().as_secs_f64())],
    );
    let media = pages.node.media.stats();
    page.counter(
        "twinbox_rtp_packets_total",
        "RTP packets.",
        [
            ("direction=\"in\"".to_owned(), media.received as f64),
            ("direction=\"out\"".to_owned(), media.sent as f64),
        ],
    );
    page.counter(
        "twinbox_rtp_dropped_total",
        "RTP packets thrown away, by cause.",
        [
            ("cause=\"stranger\"".to_owned(), media.dropped.strangers as f64),
            ("cause=\"malformed\"".to_owned(), media.dropped.malformed as f64),
            ("cause=\"codec\"".to_owned(), media.dropped.codec as f64),
        ],
    );
    let late = &media.lateness;
    let help = "How late packets were handled, by the RTP clock.";
    page.histogram("twinbox_rtp_lateness_seconds", help, &BOUNDS_US, &late.buckets, late.sum_us);
    quality(&mut page, &media.quality);
    page.0
}

/// Metrics of the overload control.
fn admission(page: &mut Page, overload: &LoadView) {
    page.gauge(
        "twinbox_admission_calls_per_second",
        "New calls a second that the overload control admits.",
        [plain(overload.limit)],
    );
    page.gauge(
        "twinbox_admission_closed",
        "1 while no new call is admitted.",
        [plain(f64::from(u8::from(overload.closed)))],
    );
    page.gauge(
        "twinbox_admission_pressure",
        "How near each signal is to its target: 1 is the target.",
        overload.pressure.iter().map(|(signal, value)| (format!("signal=\"{}\"", signal.word()), *value)),
    );
}

/// Metrics from RTCP reports.
fn quality(page: &mut Page, quality: &Quality) {
    let Quality { inbound, outbound, round_trip, .. } = quality;
    page.counter(
        "twinbox_rtcp_packets_total",
        "RTCP packets; refused are those that are malformed or not of the call's peer.",
        [
            ("direction=\"out\"".to_owned(), quality.reports_sent as f64),
            ("direction=\"in\"".to_owned(), quality.reports_received as f64),
            ("direction=\"refused\"".to_owned(), quality.reports_refused as f64),
        ],
    );
    let both = |inbound: u64, outbound: u64| {
        [("stream=\"in\"".to_owned(), inbound as f64), ("stream=\"out\"".to_owned(), outbound as f64)]
    };
    page.counter(
        "twinbox_rtcp_expected_packets_total",
        "RTP packets that reports are about: of streams in as measured here, of streams out as the peers report.",
        both(inbound.expected, outbound.expected),
    );
    page.counter(
        "twinbox_rtcp_lost_packets_total",
        "RTP packets of those that did not arrive.",
        both(inbound.lost, outbound.lost),
    );
    for (name, help, times) in [
        ("twinbox_rtcp_jitter_in_seconds", "Jitter of streams in, a value for each report.", &inbound.jitter),
        ("twinbox_rtcp_jitter_out_seconds", "Jitter of streams out, as the peers report it.", &outbound.jitter),
        ("twinbox_rtcp_round_trip_seconds", "Round trips to the peers, by their reports.", round_trip),
    ] {
        page.histogram(name, help, &BOUNDS_US, &times.buckets, times.sum_us);
    }
}

fn plain(value: f64) -> (String, f64) {
    (String::new(), value)
}

/// Text in the exposition format.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// Gauges (values that rise and fall), by label.
    pub fn gauge(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (String, f64)>) {
        self.family(name, help, "gauge", values);
    }

    /// Counters (values that only rise), by label.
    pub fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (String, f64)>) {
        self.family(name, help, "counter", values);
    }

    fn family(&mut self, name: &str, help: &str, kind: &str, values: impl IntoIterator<Item = (String, f64)>) {
        self.head(name, help, kind);
        for (labels, value) in values {
            self.line(name, &labels, value);
        }
    }

    /// `counts[i]` values were at most `bounds_us[i]` microseconds and above the previous bound; the last count is
    /// of values above all bounds.
    fn histogram(&mut self, name: &str, help: &str, bounds_us: &[u64], counts: &[u64], sum_us: u64) {
        self.head(name, help, "histogram");
        let mut seen = 0;
        for (i, count) in counts.iter().enumerate() {
            seen += count;
            let bound = bounds_us.get(i).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            self.line(&format!("{name}_bucket"), &format!("le=\"{bound}\""), seen as f64);
        }
        self.line(&format!("{name}_sum"), "", sum_us as f64 / 1e6);
        self.line(&format!("{name}_count"), "", seen as f64);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }
}
