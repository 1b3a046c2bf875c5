//! The same behind TLS, with a certificate of the test's own making.

use std::sync::Arc;

use brrbrr_relay::broker::{Limits, Refusal};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::raw::publish;
use super::{Raw, World, connect, eventually, hasty, within};

struct Certificate {
    server: Arc<ServerConfig>,
    client: TlsConnector,
}

fn certificate() -> Certificate {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Certificate {
        server: Arc::new(server),
        client: TlsConnector::from(Arc::new(client)),
    }
}

impl Certificate {
    async fn dial(&self, world: &World) -> Raw<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(world.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        Raw::new(within(self.client.connect(name, tcp)).await.unwrap())
    }

    async fn assert_serves(&self, world: &mut World, number: u32) {
        let mut raw = self.dial(world).await;
        raw.join(number).await;
        let topic = format!("brrbrr/1/hello/{number}");
        raw.send(&publish(&topic, None, false, b"hello")).await;
        assert_eq!(world.heard().await.payload, "hello");
        world.say(number, b"welcome").await;
        assert_eq!(raw.frame().await, b"welcome");
    }
}

#[tokio::test]
async fn idle_connections_before_and_inside_tls_block_nobody() {
    let certificate = certificate();
    let mut world = World::with(Limits::default(), Some(certificate.server.clone())).await;
    let _outside = world.dial().await;
    let _inside = certificate.dial(&world).await;
    certificate.assert_serves(&mut world, 1).await;
}

#[tokio::test]
async fn idle_connections_before_and_inside_tls_are_closed_in_time() {
    let certificate = certificate();
    let mut world = World::with(hasty(), Some(certificate.server.clone())).await;
    let mut outside = world.dial().await;
    let mut inside = certificate.dial(&world).await;
    outside.hung_up().await;
    inside.hung_up().await;
    eventually(|| {
        let counters = world.handle.counters();
        (
            counters.refused(Refusal::Tls),
            counters.refused(Refusal::Silent),
        ) == (1, 1)
    })
    .await;
    certificate.assert_serves(&mut world, 1).await;
}

#[tokio::test]
async fn who_does_not_speak_tls_is_hung_up_on() {
    let certificate = certificate();
    let mut world = World::with(Limits::default(), Some(certificate.server.clone())).await;
    for bytes in [
        connect(1).bytes(),
        vec![0; 100],
        vec![0x16, 3, 1, 0xff, 0xff, 1],
    ] {
        let mut raw = world.dial().await;
        raw.send(&bytes).await;
        use tokio::io::AsyncWriteExt;
        raw.stream.shutdown().await.unwrap();
        raw.hung_up().await;
    }
    eventually(|| world.handle.counters().refused(Refusal::Tls) == 3).await;
    certificate.assert_serves(&mut world, 1).await;
}
