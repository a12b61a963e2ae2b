//! nats-server: JetStream survives a crash.

use async_nats::jetstream;
use testkit::{NatsOptions, NatsServer, unique_name};

#[tokio::test]
async fn a_stream_survives_the_kill_of_its_server() {
    let mut server = NatsServer::start(NatsOptions::default()).await.unwrap();
    let name = unique_name("changes");
    let stream = jetstream::stream::Config {
        name: name.clone(),
        subjects: vec![format!("{name}.>")],
        ..Default::default()
    };
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    context.create_stream(stream).await.unwrap();
    for n in 0..10_u8 {
        context
            .publish(format!("{name}.{n}"), vec![n].into())
            .await
            .unwrap()
            .await
            .unwrap();
    }

    let url = server.url();
    server.kill();
    server.restart().await.unwrap();
    assert_eq!(server.url(), url);

    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let stream = context.get_stream(&name).await.unwrap();
    let last = stream.get_raw_message(10).await.unwrap();
    assert_eq!(&last.payload[..], &[9]);
}
