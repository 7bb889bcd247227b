# Lists an image's tree as a container engine unpacks it.
FROM derived AS list
RUN --mount=type=bind,from=derived,target=/tree --mount=type=bind,from=files,target=/files \
    cd /tree && sh /files/list.sh > /list

FROM scratch
COPY --from=list /list /
