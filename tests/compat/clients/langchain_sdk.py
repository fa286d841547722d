"""LangChain's OpenAI classes: CHAT_URL CHAT_MODEL EMBEDDING_URL EMBEDDING_MODEL."""

import sys

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

chat_url, model, embedding_url, embedding_model = sys.argv[1:]
chat = ChatOpenAI(model=model, base_url=f"{chat_url}/v1", api_key="none", temperature=0, max_tokens=100)
question = [HumanMessage("What is the capital of France? Answer in one word.")]

whole = chat.invoke(question)
assert "Paris" in whole.content
assert "".join(str(chunk.content) for chunk in chat.stream(question)) == whole.content
assert whole.usage_metadata["output_tokens"] > 0


class LookUp(BaseModel):
    """Looks up a city."""

    city: str


called = chat.bind_tools([LookUp], tool_choice="any").invoke(question)
assert called.tool_calls[0]["name"] == "LookUp", called
for method in ("json_schema", "function_calling"):
    found = chat.with_structured_output(LookUp, method=method).invoke(question)
    assert isinstance(found, LookUp), found

# The lengths that LangChain would count are those of OpenAI's tokenizer.
embeddings = OpenAIEmbeddings(
    model=embedding_model, base_url=f"{embedding_url}/v1", api_key="none", check_embedding_ctx_length=False
)
assert len(embeddings.embed_documents(["a cat", "a dog"])[1]) == len(embeddings.embed_query("a cat")) == 384
print("langchain: ok")
