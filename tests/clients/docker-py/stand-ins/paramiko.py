"""What docker-py's tests import of paramiko: the type of a channel over SSH, which no case here has."""


class Channel:
    pass
