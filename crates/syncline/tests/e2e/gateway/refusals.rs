//! What a gateway refuses: servers that it cannot use, in a sentence at the start, and names that no index can have.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{NatsOptions, NatsServer, wait_until};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::{Line, free_address, until_seen_through};
use crate::{
    index_name, nodes,
    support::{
        corpus,
        program::{PATIENCE, Program, run, text},
    },
};

#[tokio::test]
async fn a_server_binary_that_is_missing_too_old_or_another_program_is_refused_in_a_sentence()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = text(&folder.path().join("store"));
    let address = free_address()?.to_string();
    let old = folder.path().join("nats-server");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.9.25'\n")?;
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755))?;
    let old = text(&old);
    for (binary, words) in [
        (
            "/nowhere/nats-server",
            ["/nowhere/nats-server", "install it"],
        ),
        ("/bin/true", ["/bin/true", "another program"]),
        (
            &old,
            [
                "is nats-server 2.9.25; 2.10 or newer is needed",
                "install a newer one",
            ],
        ),
    ] {
        let flags = [
            "--nats-binary",
            binary,
            "--nats-listen",
            &address,
            "--store-dir",
            &store,
        ];
        let ended = run([&["nats-gateway", "--embedded"], &flags[..]].concat()).await?;
        ended.refused(1, &words)?;
    }
    Ok(())
}

/// A real server that calls itself by an old version.
async fn aged(server: NatsServer) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("nats://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let address = server.address();
            tokio::spawn(async move {
                let mut server = BufReader::new(TcpStream::connect(address).await?);
                let mut greeting = String::new();
                server.read_line(&mut greeting).await?;
                let info: Value = serde_json::from_str(greeting.trim_start_matches("INFO "))?;
                let mut info = info;
                info["version"] = json!("2.9.25");
                client
                    .write_all(format!("INFO {info}\r\n").as_bytes())
                    .await?;
                copy_bidirectional(&mut client, &mut server).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(url)
}

#[tokio::test]
async fn a_server_that_is_too_old_or_without_jetstream_is_refused_in_a_sentence() -> Result<()> {
    let old = aged(NatsServer::start(NatsOptions::default()).await?).await?;
    let plain = {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let server = Program::other(&NatsServer::binary()?, ["-a", &host, "-p", &port])?;
        server.says(&["Server is ready"]).await?;
        (format!("nats://{address}"), server, folder)
    };
    let other = NatsServer::start(NatsOptions::default()).await?;
    for (url, words) in [
        (&old, ["2.9.25", "2.10"]),
        (&plain.0, ["JetStream", &plain.0[7..]]),
    ] {
        run(["nats-gateway", "--upstream-url", url])
            .await?
            .refused(1, &words)?;
        let here = other.url();
        run([
            "nats-gateway",
            "--upstream-url",
            &here,
            "--downstream-url",
            url,
        ])
        .await?
        .refused(1, &words)?;
    }
    Ok(())
}

/// Whether a name can be had is known only when a document comes, if a route makes it of the index or the tenant.
#[tokio::test]
async fn a_name_that_no_index_can_have_is_a_letter_with_the_reason_until_the_rules_are_right()
-> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("names");
    corpus::create(&from, &index, 1, false).await?;
    corpus::index_numbers(&from, &index, 0..3, 0).await?;
    let route = |template: &str| format!("transforms: [{{ route: {{ index: '{template}' }} }}]");
    let long = format!("{{index}}-{}", "x".repeat(250));
    let mut line = Line::new(&source.url(), &target.url(), &index, &route(&long)).await?;
    line.pipeline.of_watcher = ["--tenant", "Upper"].map(str::to_owned).to_vec();
    let gateway = line.gateway(&[])?;
    let (watcher, writer) = (line.pipeline.watcher()?, line.writer()?);
    let url = line.pipeline.nats.url();
    let letters_say = async |words: &str| {
        wait_until("all are letters with the reason", PATIENCE, async || {
            let listed = run(["dlq", "list", "--json", "--nats-url", &url]).await;
            listed.is_ok_and(|listed| {
                let lines: Vec<&str> = listed.stdout.lines().collect();
                lines.len() == 3 && lines.iter().all(|line| line.contains(words))
            })
        })
        .await
    };
    letters_say("is no name that an index can have: it has more than 255 bytes").await?;
    line.write(&route("{tenant}-{index}"))?;
    gateway.says(&["the rules were replaced"]).await?;
    corpus::index_numbers(&from, &index, 0..3, 1).await?;
    letters_say("is no name that an index can have: it contains 'U'").await?;
    ensure!(to.count(&index).await.is_err(), "something has come");
    line.write(&route("{index}-v2"))?;
    let replaced = async || {
        let stats = gateway.admin().await?.get_json("/filters").await?;
        anyhow::Ok(stats["rules"] == route("{index}-v2"))
    };
    wait_until("the rules are right", PATIENCE, async || {
        replaced().await.is_ok_and(|done| done)
    })
    .await?;
    corpus::index_numbers(&from, &index, 0..3, 2).await?;
    let place = format!("{index}-v2");
    until_seen_through((&from, &index), (&to, &place), |document| {
        Some(document.clone())
    })
    .await?;
    let listed = run(["dlq", "list", "--json", "--nats-url", &url])
        .await?
        .success()?;
    ensure!(listed.stdout.trim().is_empty(), "{listed:?}");
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}
