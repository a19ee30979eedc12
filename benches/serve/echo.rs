//! The baseline: a tonic server that answers the same messages with one and the same reply, and does nothing else. A process of its own, as
//! the node is, with the node's allocator, number of threads and core.

use std::io::{BufRead, BufReader};
use std::pin::Pin;
use std::process::{Child, Stdio};

use larder_benches::{CpuTimes, NODE_CORE, Outcome, ServedNode, on_core};
use larder_serve::v1::answers_client::AnswersClient;
use larder_serve::v1::answers_server::{Answers, AnswersServer};
use larder_serve::v1::{AnswerReply, AnswerRequest, AnswerStreamReply};
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Says that this process is the baseline, and where the reply lies.
const AS_CHILD: &str = "LARDER_BENCH_ECHO";

/// The baseline as a child.
pub(crate) struct Echo {
    child: Child,
    address: String,
}

impl Echo {
    /// Takes one reply from the node and serves it.
    pub(crate) fn start(node: &ServedNode) -> Outcome<Echo> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let reply = runtime.block_on(one_reply(node.address()))?;
        let file = std::env::temp_dir().join(format!("larder-bench-echo-{}", std::process::id()));
        std::fs::write(&file, reply.encode_to_vec())?;
        let program = std::env::current_exe()?;
        let mut command = on_core(NODE_CORE, &program.to_string_lossy());
        let mut child = command.env(AS_CHILD, &file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        let stdout = child.stdout.take().ok_or("the echo has no output")?;
        BufReader::new(stdout).read_line(&mut address)?;
        std::fs::remove_file(&file)?;
        Ok(Echo { child, address: address.trim().to_owned() })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn cpu(&self) -> Outcome<CpuTimes> {
        CpuTimes::of(self.child.id())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn one_reply(address: &str) -> Outcome<AnswerReply> {
    let mut client = AnswersClient::connect(format!("http://{address}")).await?;
    let text = "I am still waiting on my card, when will it be here?".to_owned();
    let mut request = Request::new(AnswerRequest { text, request_id: String::new() });
    request.metadata_mut().insert("x-larder-tenant", "bank".parse()?);
    request.metadata_mut().insert("x-larder-user", "u0000001".parse()?);
    Ok(client.answer(request).await?.into_inner())
}

/// Serves, if this process is the baseline.
pub(crate) fn as_child() -> Option<Outcome<()>> {
    let file = std::env::var_os(AS_CHILD)?;
    let serve = || -> Outcome<()> {
        let reply = AnswerReply::decode(std::fs::read(file)?.as_slice())?;
        // As many as a node's io_threads.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let service = AnswersServer::new(Service { reply });
            Server::builder().add_service(service).serve_with_incoming(incoming).await?;
            Ok(())
        })
    };
    Some(serve())
}

#[derive(Debug)]
struct Service {
    reply: AnswerReply,
}

#[tonic::async_trait]
impl Answers for Service {
    async fn answer(&self, _request: Request<AnswerRequest>) -> Result<Response<AnswerReply>, Status> {
        Ok(Response::new(self.reply.clone()))
    }

    type AnswerStreamStream = Pin<Box<dyn Stream<Item = Result<AnswerStreamReply, Status>> + Send>>;

    async fn answer_stream(
        &self,
        _request: Request<Streaming<AnswerRequest>>,
    ) -> Result<Response<Self::AnswerStreamStream>, Status> {
        Err(Status::unimplemented("the baseline answers single questions"))
    }
}
