//! The composition root: opens the stores, binds the listeners, starts the tasks in the order in
//! which they depend on each other, and ends them in the reverse order. The only file that names
//! concrete stores.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use brrbrr_proto::id::RelayId;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::broker::{self, Authenticate, BrokerConfig, Credentials, Limits, Refused};
use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{Catalog, CatalogError};
use crate::changes::Changes;
use crate::clock;
use crate::config::{Config, TlsFiles};
use crate::data_dir::Listening;
use crate::endings::Endings;
use crate::http::turns::Turns;
use crate::http::{self, Services, Settings};
use crate::journal::Journal;
use crate::journal::sqlite::SqliteJournal;
use crate::live::Live;
use crate::live::memory::MemoryLive;
use crate::metrics::Metrics;
use crate::push::Push;
use crate::session;
use crate::session::worker::Stores;
use crate::wake::Wakeups;

/// Robots that were removed and wait for the session driver. Removing is rare and done by people.
const REMOVED: usize = 64;
/// How long a task may take to finish what it began. Longer than the limits the tasks set themselves.
const END_LIMIT: Duration = Duration::from_secs(12);

/// Runs the relay until `shutdown` resolves.
///
/// # Errors
/// Says what keeps it from running.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    config.data.create()?;
    let lock = config.data.lock()?;
    let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(&config.data.catalog())?);
    let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(&config.data.journal())?);
    let live: Arc<dyn Live> = Arc::new(MemoryLive::open(&config.data.live())?);

    start_calendar(&*catalog, &*live).await?;

    let http_listener = bind("HTTP", config.http).await?;
    let mqtt_listener = bind("MQTT", config.mqtt).await?;
    let listening = Listening::new(
        http_listener.local_addr()?,
        mqtt_listener.local_addr()?,
        config.mqtt_tls.is_some(),
        config.mqtt_public_url.as_deref(),
    );

    let relay = RelayId(getrandom::u64().context("the operating system gives no random numbers")?);
    let (stop, stopped) = watch::channel(false);
    let tls = config.mqtt_tls.as_ref().map(tls_config).transpose()?;
    let broker_config = BrokerConfig {
        relay,
        tls: tls.map(Arc::new),
        limits: Limits::default(),
    };
    let (broker, frames) = broker::spawn(
        mqtt_listener,
        broker_config,
        authenticate(Arc::clone(&catalog)),
        turned(stopped.clone()),
    )?;

    let metrics = Arc::new(Metrics::new(broker.clone()));
    let wakeups = Arc::new(Wakeups::default());
    let (removed_tx, removed) = mpsc::channel(REMOVED);
    let changes = Arc::new(Changes::default());
    let stores = Stores::new(&catalog, &journal, &live, &metrics.link, &changes);
    let (stop_sessions, sessions_stopped) = watch::channel(false);
    let mut sessions = tokio::spawn(session::run(
        session::Parts {
            relay,
            broker,
            frames,
            removed,
            wakeups: Arc::clone(&wakeups),
            workers: stores,
            metrics: Arc::clone(&metrics.link),
        },
        sessions_stopped,
    ));

    let endings = Endings::new(&catalog, &live, &changes, &metrics.link);
    let (stop_endings, endings_stopped) = watch::channel(false);
    let ending = tokio::spawn(endings.clone().run(turned(endings_stopped)));

    let services = Arc::new(Services {
        catalog,
        live,
        journal,
        push: Push::default(),
        wakeups,
        changes,
        endings,
        metrics,
        removed: removed_tx,
        turns: Turns::default(),
        settings: Settings {
            legacy_open: config.legacy_open,
            admin_token: config.admin_token.clone(),
            cors_origins: config.cors_origins.clone(),
            ..Settings::default()
        },
    });
    let (stop_http, http_stopped) = watch::channel(false);
    let mut http = tokio::spawn(http::serve(http_listener, services, turned(http_stopped)));

    config.data.note_listening(&listening)?;
    info!(http = listening.http, mqtt = listening.mqtt, %relay, "relay serves");
    notify(&[sd_notify::NotifyState::Ready]);

    let failure = tokio::select! {
        () = shutdown => None,
        ended = &mut sessions => Some(match ended {
            Ok(Ok(())) => anyhow::anyhow!("the session driver ended"),
            Ok(Err(error)) => error.into(),
            Err(panic) => anyhow::anyhow!("the session driver failed: {panic}"),
        }),
        _ = &mut http => Some(anyhow::anyhow!("the HTTP server ended")),
    };

    // Callers first, then robots, then the broker: each may still need what comes after it.
    notify(&[sd_notify::NotifyState::Stopping]);
    end("the HTTP server", &stop_http, http).await;
    end("the ending of commands", &stop_endings, ending).await;
    end("the session driver", &stop_sessions, sessions).await;
    stop.send_replace(true);
    drop(lock);
    failure.map_or(Ok(()), Err)
}

/// To be called before anything reads the calendar.
async fn start_calendar(catalog: &dyn Catalog, live: &dyn Live) -> anyhow::Result<()> {
    let known = live.alive().await?.max(catalog.newest_submission().await?);
    if let Some(known) = known {
        clock::not_before(known);
    }
    Ok(())
}

/// Tells a task to end and waits until it has, if it has not ended by itself.
async fn end<T>(name: &str, stop: &watch::Sender<bool>, task: JoinHandle<T>) {
    stop.send_replace(true);
    if !task.is_finished() && tokio::time::timeout(END_LIMIT, task).await.is_err() {
        warn!(name, "did not end in time");
    }
}

async fn bind(what: &str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen for {what} on {address}"))
}

/// Resolves when the value turns true, or when nobody can turn it any more.
async fn turned(mut value: watch::Receiver<bool>) {
    value.wait_for(|value| *value).await.ok();
}

/// A robot may connect if it is in the catalog and knows its password.
fn authenticate(catalog: Arc<dyn Catalog>) -> Authenticate {
    Arc::new(move |credentials: Credentials| {
        let catalog = Arc::clone(&catalog);
        Box::pin(async move {
            let Ok(robot) = credentials.username.parse() else {
                return Err(Refused::BadCredentials);
            };
            let secret = catalog.secret(robot).await.map_err(|error| match error {
                CatalogError::Missing(_) => Refused::BadCredentials,
                CatalogError::Conflict(_)
                | CatalogError::Full(_)
                | CatalogError::UnknownPlace { .. }
                | CatalogError::Away(_)
                | CatalogError::Corrupt(_) => {
                    warn!(%robot, %error, "the robot's password cannot be checked");
                    Refused::Unavailable
                }
            })?;
            if secret.mqtt_password().matches(&credentials.password) {
                Ok(robot)
            } else {
                Err(Refused::BadCredentials)
            }
        })
    })
}

fn tls_config(files: &TlsFiles) -> anyhow::Result<rustls::ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read the certificates in {}", files.cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("cannot read the key in {}", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the MQTT certificate and key do not belong together")
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be told");
    }
}
