//! The gRPC client side of the commands: connecting to a node, saying who asks, and wording a refusal.
//!
//! A command is synchronous; the few that talk to a node do it inside `block_on`.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use larder_serve::{CLASS_HEADER, SESSION_HEADER, SHARD_HEADER, TENANT_HEADER, USER_HEADER};
use larder_store::Shard;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Who a call speaks for, as development identity reads it from the call's metadata.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    pub(crate) tenant: String,
    pub(crate) user: String,
    pub(crate) session: String,
    pub(crate) class: String,
    /// The shard that the node is believed to be.
    pub(crate) shard: Option<Shard>,
}

impl Caller {
    /// A request with this caller's metadata; what is empty is left to the node's defaults.
    pub(crate) fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        let fields = [
            (TENANT_HEADER, &self.tenant),
            (USER_HEADER, &self.user),
            (SESSION_HEADER, &self.session),
            (CLASS_HEADER, &self.class),
        ];
        for (key, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            let sendable = MetadataValue::try_from(value.as_str()).ok().filter(|_| value.is_ascii());
            let value =
                sendable.with_context(|| format!("{key} = {value:?}: only visible ASCII characters can be sent"))?;
            request.metadata_mut().insert(key, value);
        }
        if let Some(shard) = self.shard {
            request.metadata_mut().insert(SHARD_HEADER, MetadataValue::try_from(shard.to_string())?);
        }
        Ok(request)
    }
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    Ok(runtime.block_on(future))
}

/// Connects to a node, which may be named `host:port` or by a full URL.
pub(crate) async fn connect(address: &str) -> Result<Channel> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url)
        .with_context(|| format!("{address:?} is not an address; give host:port, such as 127.0.0.1:7700"))?;
    let connecting = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await;
    connecting.map_err(|error| {
        // Only the last cause says something: refused, timed out, no such host.
        let error = anyhow::Error::new(error);
        let cause = error.root_cause();
        anyhow!("no node answers at {address} ({cause}); start one with `larder serve --config larder.toml`")
    })
}

/// The address by which this machine reaches a node that listens on `listen`.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// A refusal in the node's own words, with the name of its status.
pub(crate) fn refusal(status: &Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => {
            anyhow!("the server there does not offer this call; is it a larder node of this version?")
        }
        code => anyhow!("the node refused: {} ({code:?})", status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_sends_only_what_is_known() {
        let caller = Caller { tenant: "demo".to_owned(), user: "u1".to_owned(), ..Caller::default() };
        let request = caller.request(()).unwrap();
        assert_eq!(request.metadata().get(TENANT_HEADER).unwrap(), "demo");
        assert_eq!(request.metadata().get(USER_HEADER).unwrap(), "u1");
        assert!(request.metadata().get(SESSION_HEADER).is_none() && request.metadata().get(SHARD_HEADER).is_none());
        let routed = Caller { shard: Some("3/4".parse().unwrap()), ..caller }.request(()).unwrap();
        assert_eq!(routed.metadata().get(SHARD_HEADER).unwrap(), "3/4");
    }

    #[test]
    fn a_user_that_no_header_can_carry_is_an_error() {
        let caller = Caller { user: "Zoë".to_owned(), ..Caller::default() };
        assert!(caller.request(()).unwrap_err().to_string().contains(USER_HEADER));
    }

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:7700".parse().unwrap()), "127.0.0.1:7700".parse().unwrap());
        assert_eq!(reachable("[::]:7700".parse().unwrap()), "[::1]:7700".parse().unwrap());
        assert_eq!(reachable("10.1.2.3:7700".parse().unwrap()), "10.1.2.3:7700".parse().unwrap());
    }
}
