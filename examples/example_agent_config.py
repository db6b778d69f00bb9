"""Models and prompts of the agents of a session: how they are stored, where a prompt came from, and how to change them.

Run it as it is: it needs no account and no network.
"""

from typing import Any
from uuid import uuid4

from pymongo import MongoClient
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb


def main() -> None:
    session_id = f"config-{uuid4()}"
    with running_mongodb() as uri, MongoClient[dict[str, Any]](uri) as client:
        with MongoDBSessionManager(session_id, client=client) as manager:
            # 1. Model id and prompt are stored with the agent, without a call of yours.
            support = make_agent(manager, "support", "small-1", "You help customers.")
            make_agent(manager, "reviewer", "large-1", "You review answers.")
            support("My parcel is late.")
            show(manager, "stored with the agents")

            # 2. prompt_metadata says where the prompt came from. Later turns do not change it.
            manager.set_prompt_metadata("support", {"prompt": "support/de", "version": 7})
            support("Are you there?")
            show(manager, "with the origin of a prompt")

            # 3. An operator changes the stored configuration. The running agent keeps its own.
            manager.update_agent_config("support", model="large-1", system_prompt="You help customers quickly.")
            support("Hello?")
            show(manager, "changed by an operator")

        # 4. The next request makes its agents from the stored configuration.
        with MongoDBSessionManager(session_id, client=client) as manager:
            print("made from what is stored:")
            for config in manager.list_agents():
                agent = make_agent(manager, config["agent_id"], config["model"], config["system_prompt"])
                print(f"  {agent.agent_id}: {config['model']}, {agent.system_prompt}, {len(agent.messages)} messages")
            print(f"an unknown agent: {manager.get_agent_config('nobody')}")
            manager.delete_session()


def make_agent(manager: MongoDBSessionManager, agent_id: str, model: str | None, prompt: str | None) -> Agent:
    return Agent(
        model=ScriptedModel(default="Yes.", model_id=model or "small-1"),
        agent_id=agent_id,
        system_prompt=prompt,
        session_manager=manager,
        callback_handler=None,
    )


def show(manager: MongoDBSessionManager, title: str) -> None:
    print(f"{title}:")
    for config in manager.list_agents():
        print(f"  {config['agent_id']}: {config['model']}, {config['system_prompt']}, {config['prompt_metadata']}")


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
