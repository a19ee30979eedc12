//! A node in this process, asked over real gRPC.

use std::time::Duration;

use larder_serve::v1::answers_client::AnswersClient;
use larder_serve::v1::{AnswerReply, AnswerRequest};
use larder_serve::{Node, NodeConfig, TENANT_HEADER, USER_HEADER};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::shop::{Shop, TenantSpec};

/// A serving node and a connection to it.
pub(crate) struct TestNode {
    pub(crate) node: Node,
    pub(crate) channel: Channel,
}

impl TestNode {
    /// Starts a node on a shop and waits until it serves.
    pub(crate) async fn start(shop: &Shop) -> TestNode {
        let mut started = TestNode::bind(shop).await;
        started.node.warm().await.unwrap();
        started
    }

    /// Starts a node that may have faults on purpose, and waits until it serves.
    pub(crate) async fn start_allowing_chaos(shop: &Shop) -> TestNode {
        let mut started = TestNode::bind_with(NodeConfig { allow_chaos: true, ..shop.config() }).await;
        started.node.warm().await.unwrap();
        started
    }

    /// Starts a node with a configuration of its own, and waits until it serves.
    pub(crate) async fn start_with(config: NodeConfig) -> TestNode {
        let mut started = TestNode::bind_with(config).await;
        started.node.warm().await.unwrap();
        started
    }

    /// Starts a node that listens and does not serve yet.
    pub(crate) async fn bind(shop: &Shop) -> TestNode {
        TestNode::bind_with(shop.config()).await
    }

    async fn bind_with(config: NodeConfig) -> TestNode {
        let node = Node::bind(config).await.unwrap();
        let channel = connect(&node).await;
        TestNode { node, channel }
    }

    /// A connection of its own, for what must not end with the others'.
    pub(crate) async fn connect(&self) -> Channel {
        connect(&self.node).await
    }

    pub(crate) fn answers(&self) -> AnswersClient<Channel> {
        AnswersClient::new(self.channel.clone())
    }

    /// Asks as a user of a tenant, with time enough.
    pub(crate) async fn ask(&self, tenant: TenantSpec, user: &str, text: &str) -> Result<AnswerReply, Status> {
        ask(self.answers(), tenant, user, text, Duration::from_secs(20)).await
    }

    /// One page of the node's HTTP side.
    pub(crate) async fn http_get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.node.metrics_address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }
}

async fn connect(node: &Node) -> Channel {
    Channel::from_shared(format!("http://{}", node.address())).unwrap().connect().await.unwrap()
}

/// Asks over a client of one's own.
pub(crate) async fn ask(
    mut client: AnswersClient<Channel>,
    tenant: TenantSpec,
    user: &str,
    text: &str,
    timeout: Duration,
) -> Result<AnswerReply, Status> {
    let mut request = request(tenant, user, text);
    request.set_timeout(timeout);
    client.answer(request).await.map(tonic::Response::into_inner)
}

/// A question with its identity and without a deadline.
pub(crate) fn request(tenant: TenantSpec, user: &str, text: &str) -> Request<AnswerRequest> {
    let message = AnswerRequest { text: text.to_owned(), request_id: String::new() };
    identified(tenant, user, message)
}

/// Any message with an identity.
pub(crate) fn identified<T>(tenant: TenantSpec, user: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(TENANT_HEADER, tenant.name.parse().unwrap());
    request.metadata_mut().insert(USER_HEADER, user.parse().unwrap());
    request
}

/// The reason and the retry hint that a refusal carries in its details.
pub(crate) fn reason(status: &Status) -> (String, Option<Duration>) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    (reason, details.retry_info().and_then(|retry| retry.retry_delay))
}
