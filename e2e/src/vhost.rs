//! A robot's own broker: a fresh virtual host on the test's RabbitMQ.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::http::{Answer, Client, Request};

/// guest:guest, the only user of the test's broker.
const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

/// A virtual host, removed when dropped.
#[derive(Debug)]
pub struct Vhost {
    name: String,
    amqp: String,
    api: Client,
}

impl Vhost {
    /// Makes one that nobody else uses.
    ///
    /// # Panics
    /// Where the test's broker is not there.
    #[must_use]
    pub fn create() -> Self {
        let stamp = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let name = format!("robot-{}-{stamp}", std::process::id());
        let api = variable("BRRBRR_TEST_RABBITMQ_API");
        let address = api.rsplit(['@', '/']).next().unwrap();
        let address: SocketAddr = address.parse().expect("the API's address and port");
        let vhost = Self {
            amqp: format!("{}/{name}", variable("BRRBRR_TEST_AMQP_URL")),
            api: Client(address),
            name,
        };
        vhost.call("PUT", &format!("/api/vhosts/{}", vhost.name), None);
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        let path = format!("/api/permissions/{}/guest", vhost.name);
        vhost.call("PUT", &path, Some(&all));
        vhost
    }

    /// Its address, with user and password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.amqp
    }

    /// Where its broker listens.
    ///
    /// # Panics
    /// Where that is not an IP address and a port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let authority = self.amqp.rsplit('@').next().unwrap();
        let address = authority.split('/').next().unwrap();
        address.parse().expect("the broker's address and port")
    }

    /// Its address by way of a proxy.
    ///
    /// # Panics
    /// As [`Vhost::address`].
    #[must_use]
    pub fn url_by_way_of(&self, proxy: SocketAddr) -> String {
        let direct = self.address().to_string();
        self.amqp.replacen(&direct, &proxy.to_string(), 1)
    }

    /// Its queues, as the management API lists them.
    #[must_use]
    pub fn queues(&self) -> Value {
        self.call("GET", &format!("/api/queues/{}", self.name), None)
            .json()
    }

    fn call(&self, method: &'static str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = Request::new(method, path).header("Authorization", GUEST);
        request = match body {
            Some(body) => request.json(body),
            None => request.header("Content-Length", "0"),
        };
        let answer = self.api.send(&request);
        assert!(answer.status < 300, "{method} {path}: {}", answer.text());
        answer
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let path = format!("/api/vhosts/{}", self.name);
        let request = Request::new("DELETE", &path).header("Authorization", GUEST);
        // The broker ends with the run anyway.
        self.api.try_send(&request).ok();
    }
}

fn variable(name: &str) -> String {
    let how = "run the tests with scripts/test, or under scripts/services run";
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: {how}"))
}
