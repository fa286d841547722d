"""Instructor, which makes objects of answers: CHAT_URL CHAT_MODEL."""

import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel, Field

chat_url, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{chat_url}/v1", api_key="none", max_retries=0)


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    colour: Literal["red", "green", "blue"]


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    shaped = instructor.from_openai(client, mode=mode)
    person = shaped.chat.completions.create(
        model=model,
        response_model=Person,
        messages=[{"role": "user", "content": "Anna is 30 years old and likes blue. Answer in JSON."}],
        temperature=0,
        max_tokens=200,
        max_retries=0,
    )
    assert isinstance(person, Person), person
print("instructor: ok")
